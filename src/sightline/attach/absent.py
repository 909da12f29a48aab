"""Why a run showed no evidence of a kind, in the words of the door for a PyTorch loop."""

from __future__ import annotations

ABSENT = {
    "RoundTripSeen": "no checkpoint was shown: call guard.checkpoint(path) after saving one",
    "EvaluationSeen": "no evaluation was seen: run it inside 'with guard.evaluating():'",
    "LeakSeen": "no packed batch was seen (group_ids, or position_ids that restart)",
    "ImagePairsSeen": "no batch with two or more images and labels was probed",
    "SignalsSeen": "no forward pass through a connector and a token embedding was seen",
    "MetricsHistory": "nothing was logged: guard.log(name=value) says what the loop measures of itself",
    "ReferenceSeen": "no reference model was shown: guard.reference(model) does so",
    "DataSeen": "the data set was not shown: only its batches were seen",
    "ContextSeen": "no model with rotary positions and a config was seen",
    "PaddingSeen": "no padded batch of token ids was seen without gradients",
    "ScoreSeen": "no evaluation with token ids and their logits was seen",
    "AccessSeen": "the host named no repository of a hub",
    "LossSeen": "no gradient of (..., V) logits was seen",
    "Setup": "no training forward was seen: the attached model was never called with gradients on",
    "BatchSeen": "no forward pass of the attached model was seen",
    "StepSeen": "no optimizer step was seen",
    "History": "no optimizer step was seen",
    "ScheduleSeen": "fewer than two optimizer steps were seen",
    "HeadSeen": "no training forward from the first step on gave (..., C) logits",
    "OwnModeSeen": "no module of a model in train mode overrides train()",
    "StillSeen": "no ten steps in a row wrote to nothing",
    "OutputsSeen": "no training batch of several samples whose inputs and outputs have one row each was seen",
    "ScalerSeen": "no gradient scaler was at work",
    "RoundingSeen": "no 16-bit parameter was seen in the hands of an optimizer whose state says what it will add",
    "SharedRowsSeen": "no evaluation was seen between training steps whose rows could be compared",
    "OverfitSeen": "nobody asked: guard.preflight(batches, overfit=True) trains a copy on one batch",
    "OracleSeen": "no metric was shown: guard.metric(fn, targets) gives it the ground truth",
    "ResumeSeen": "no resumed run was shown: call guard.resumed(path) after loading a checkpoint",
}
