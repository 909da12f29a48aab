"""Evidence: the frozen facts that a run shows. Checks are pure functions of these and of nothing else.

Every host (a raw PyTorch loop, our trainer, a library's trainer) fills in the same types, so a check never knows who
is training. Tensors are small and on the CPU; everything else is numbers and names. None means "this host could not
show it": a check that needs such a field answers `CannotTell`, never silence.

Which evidence is shown when (raw PyTorch door, `sightline.attach`):

    Setup         before the first training forward, and again when trainability, modes or groups changed
    BatchSeen     after every sampled forward pass (training and evaluation), and for each batch of `preflight`
    SignalsSeen   after a sampled forward pass through a connector; JoinedSeen once, after several that cut images
    LossSeen      in the backward pass of a sampled step, once per micro-batch: what the loss really supervised
    StepSeen      after every optimizer step; its `parameters` are measured on sampled steps only
    History       after every StepSeen: the recent ones, oldest first, since the last change of Setup
    Progress      after 8, 16, 32, ... training forwards, and at the end: were steps taken at all?
    MetricsSeen   whenever the host logs numbers, by their names; MetricsHistory after each: all so far
    ReferenceSeen at the first training forward, at 64, 128, ... steps and at the end, where a host has a reference
    DataSeen      at the start, from hosts that hold the data set itself; ContextSeen of models with rotary positions
    TaughtFromSeen after sampled training batches of masked prompts, PromptMasksSeen after every eighth and at the end;
                  PromptsSeen when a model wrote on from prompts; TiedSeen once
    PaddingSeen   for the first padded batches without gradients; once for such as are read at their last place alone
    ScoreSeen     when an evaluation of text is over (the first few): its likelihoods, recomputed; JudgedLossesSeen
                  the same of the script's own losses; BatchMeansSeen of means over batches that differ in size
    AccessSeen    from hosts that know which repositories of a hub a run reads and writes; LoaderSeen when a known
                  loader begins an epoch; at the end MatchesSeen, of pairs or classes, and KinSeen
    OrdersSeen    once, where inputs of a batch are out of order; CollatedSeen of a host's own collate function
    PairedSeen    after the first training forward on images with masks or boxes; FiledSeen of files out of order
    FeaturesSeen  at the end, of features beside texts; FeedSeen after 8, 16, ... hashed batches, and at the end
    ExtractedSeen under `sightline run`, at the end, where a model was trained on features that another one made
    RanksSeen     on rank 0, when all ranks have shown the same step; RanksStuckSeen when all wait for ever
    ScheduleSeen  after 2, 4, 8, ... optimizer steps, and at the end; WaitingSeen after 32, 64, ... with a known loader
    PlateauSeen   under `sightline run`, after each cut of a schedule that waits; DivergenceSeen, of KL's probabilities
    HeadSeen      once, after the first training forward with logits; BinaryLossSeen, PairLossSeen of first losses
    OutputsSeen   after sampled training forwards; CollapseSeen at the end, where vectors are compared with each other
    OutsideSeen   in sampled backward passes, of parameters that only the loss uses; LastBatchSeen after three steps
    FreshFrozenSeen   once, under `sightline run`, when frozen parts that nobody gave a value stand in the way
    CutOffSeen    once, of modules that learn under no_grad or detached; HiddenSeen, of parameters in plain containers
    RenewedSeen   when a language model wakes beside a connector that learnt alone; ReplacedSeen when layers changed
    PullSeen      after first backward passes that pull all outputs to one number; PicturesSeen once, of images all one
    CrossedSeen, AxisSeen  once, under `sightline run`, when a loss takes values of several samples or places together
    StillSeen     once, when steps write to nothing; UnsettledSeen after a judgement with spectral norm before any step,
                  FromNothingSeen before the first; UnresetSeen when a metric goes on with what it counted
    SharedTextSeen   after 16, 32, ... batches in which all samples share one row of token ids, and at the end
    SharedRowsSeen, HeldRowsSeen   in evaluations and after training batches; RedrawnSeen, SharedSpansSeen at the end
    ClippedSeen   under `sightline run`, after twelve calls that clip; ScalerSeen, RoundingSeen, AverageSeen of 16 bits
    GeneratedSeen when a Trainer judged what its model wrote; OverfitSeen, OracleSeen, ResumeSeen when the host asks
    CollectivesSeen   under `sightline run`, when a rank is about to call what another did not
    AutocastSeen  after measured training forwards under autocast; LeftInEvalSeen after steps that train in eval mode
    LeftOutSeen   when a training forward gave NaN and no backward pass came; OwnModeSeen after two steps, once
    TeacherSeen   once, under `sightline run`, when a network that is done with learning answers in train mode
    LeakSeen, ImagePairsSeen, EvaluationSeen, RoundTripSeen, DrawsSeen, RowsSeen    answers of probes (`guard/probes/`)
Nothing here imports more than the standard library at run time.
"""

from __future__ import annotations

from sightline.guard.evidence.answers import (
    EvaluationSeen,
    ImagePairsSeen,
    LeakSeen,
    LeftInEvalSeen,
    OwnModeSeen,
    RoundTripSeen,
    TeacherSeen,
    UnsettledSeen,
)
from sightline.guard.evidence.asked import GeneratedSeen, OracleSeen, OverfitSeen, ResumeSeen
from sightline.guard.evidence.batches import IGNORE, BatchSeen, JoinedSeen, LossSeen, Phase, SignalsSeen
from sightline.guard.evidence.beginnings import PromptsSeen, TaughtFromSeen
from sightline.guard.evidence.beside import FeaturesSeen
from sightline.guard.evidence.collapse import CollapseSeen, Vectors
from sightline.guard.evidence.cut_off import CutOffSeen
from sightline.guard.evidence.data import DataSeen, Objective
from sightline.guard.evidence.endings import Ended
from sightline.guard.evidence.extracted import ExtractedSeen
from sightline.guard.evidence.filed import FiledSeen
from sightline.guard.evidence.fresh_frozen import FreshFrozenSeen
from sightline.guard.evidence.goes_on import FromNothingSeen
from sightline.guard.evidence.hang import RanksStuckSeen, StuckRank
from sightline.guard.evidence.hidden import HiddenSeen
from sightline.guard.evidence.language import (
    AccessSeen,
    BatchMeansSeen,
    BatchScore,
    ContextSeen,
    JudgedLossesSeen,
    PaddingSeen,
    ScoreSeen,
)
from sightline.guard.evidence.learning import (
    BinaryLossSeen,
    DivergenceSeen,
    HeadSeen,
    OutputsSeen,
    PairLossSeen,
    PlateauSeen,
    ScheduleSeen,
    StillSeen,
)
from sightline.guard.evidence.loading import (
    CollatedSeen,
    DrawsSeen,
    Fed,
    FeedSeen,
    LoaderSeen,
    RowsSeen,
    SharedTextSeen,
    WaitingSeen,
)
from sightline.guard.evidence.matches import KinSeen, MatchesSeen, PairedSeen
from sightline.guard.evidence.metrics import MetricsHistory, MetricsSeen, UnresetSeen
from sightline.guard.evidence.parallel import CollectivesSeen, RankFacts, RanksSeen, Round
from sightline.guard.evidence.pictures import PicturesSeen
from sightline.guard.evidence.prompt_masks import PromptMasksSeen
from sightline.guard.evidence.pull import AxisSeen, CrossedSeen, PullSeen
from sightline.guard.evidence.reference import ReferenceSeen
from sightline.guard.evidence.replaced import RenewedSeen, ReplacedSeen
from sightline.guard.evidence.rounding import (
    AutocastSeen,
    AverageSeen,
    ClippedSeen,
    LeftOutSeen,
    RoundingSeen,
    ScaledStep,
    ScalerSeen,
)
from sightline.guard.evidence.row_orders import OrdersSeen
from sightline.guard.evidence.rows import (
    HeldRowsSeen,
    NearRowsSeen,
    RedrawnSeen,
    RepeatsSeen,
    SharedRowsSeen,
    SharedSpansSeen,
    TailsSeen,
)
from sightline.guard.evidence.setup import Plan, Setup, TokenizerSetup, TowerSetup
from sightline.guard.evidence.steps import History, LastBatchSeen, OutsideSeen, ParameterSeen, Progress, StepSeen
from sightline.guard.evidence.ties import TiedSeen

__all__ = [
    "IGNORE",
    "AccessSeen",
    "AutocastSeen",
    "AverageSeen",
    "AxisSeen",
    "BatchMeansSeen",
    "BatchScore",
    "BatchSeen",
    "BinaryLossSeen",
    "ClippedSeen",
    "CollapseSeen",
    "CollatedSeen",
    "CollectivesSeen",
    "ContextSeen",
    "CrossedSeen",
    "CutOffSeen",
    "DataSeen",
    "DivergenceSeen",
    "DrawsSeen",
    "Ended",
    "EvaluationSeen",
    "Evidence",
    "ExtractedSeen",
    "FeaturesSeen",
    "Fed",
    "FeedSeen",
    "FiledSeen",
    "FreshFrozenSeen",
    "FromNothingSeen",
    "GeneratedSeen",
    "HeadSeen",
    "HeldRowsSeen",
    "HiddenSeen",
    "History",
    "ImagePairsSeen",
    "JoinedSeen",
    "JudgedLossesSeen",
    "KinSeen",
    "LastBatchSeen",
    "LeakSeen",
    "LeftInEvalSeen",
    "LeftOutSeen",
    "LoaderSeen",
    "LossSeen",
    "MatchesSeen",
    "MetricsHistory",
    "MetricsSeen",
    "NearRowsSeen",
    "Objective",
    "OracleSeen",
    "OrdersSeen",
    "OutputsSeen",
    "OutsideSeen",
    "OverfitSeen",
    "OwnModeSeen",
    "PaddingSeen",
    "PairLossSeen",
    "PairedSeen",
    "ParameterSeen",
    "Phase",
    "PicturesSeen",
    "Plan",
    "PlateauSeen",
    "Progress",
    "PromptMasksSeen",
    "PromptsSeen",
    "PullSeen",
    "RankFacts",
    "RanksSeen",
    "RanksStuckSeen",
    "RedrawnSeen",
    "ReferenceSeen",
    "RenewedSeen",
    "RepeatsSeen",
    "ReplacedSeen",
    "ResumeSeen",
    "Round",
    "RoundTripSeen",
    "RoundingSeen",
    "RowsSeen",
    "ScaledStep",
    "ScalerSeen",
    "ScheduleSeen",
    "ScoreSeen",
    "Setup",
    "SharedRowsSeen",
    "SharedSpansSeen",
    "SharedTextSeen",
    "SignalsSeen",
    "StepSeen",
    "StillSeen",
    "StuckRank",
    "TailsSeen",
    "TaughtFromSeen",
    "TeacherSeen",
    "TiedSeen",
    "TokenizerSetup",
    "TowerSetup",
    "UnresetSeen",
    "UnsettledSeen",
    "Vectors",
    "WaitingSeen",
]

Evidence = (
    Setup
    | BatchSeen
    | SignalsSeen
    | JoinedSeen
    | LossSeen
    | StepSeen
    | History
    | Progress
    | MetricsSeen
    | MetricsHistory
    | RedrawnSeen
    | ReferenceSeen
    | DataSeen
    | ContextSeen
    | ClippedSeen
    | CollapseSeen
    | AxisSeen
    | CrossedSeen
    | CutOffSeen
    | Ended
    | TaughtFromSeen
    | PromptsSeen
    | PromptMasksSeen
    | TiedSeen
    | PaddingSeen
    | ScoreSeen
    | JudgedLossesSeen
    | AccessSeen
    | BatchMeansSeen
    | LeakSeen
    | LeftInEvalSeen
    | ImagePairsSeen
    | EvaluationSeen
    | RoundTripSeen
    | UnresetSeen
    | UnsettledSeen
    | LoaderSeen
    | FeaturesSeen
    | FeedSeen
    | ExtractedSeen
    | FreshFrozenSeen
    | DrawsSeen
    | FiledSeen
    | PairedSeen
    | CollatedSeen
    | KinSeen
    | MatchesSeen
    | OrdersSeen
    | RowsSeen
    | WaitingSeen
    | RanksSeen
    | CollectivesSeen
    | RanksStuckSeen
    | BinaryLossSeen
    | HeadSeen
    | HiddenSeen
    | RenewedSeen
    | ReplacedSeen
    | OutputsSeen
    | PairLossSeen
    | LastBatchSeen
    | OutsideSeen
    | PicturesSeen
    | PlateauSeen
    | PullSeen
    | ScheduleSeen
    | SharedRowsSeen
    | SharedSpansSeen
    | SharedTextSeen
    | DivergenceSeen
    | StillSeen
    | TeacherSeen
    | FromNothingSeen
    | GeneratedSeen
    | OracleSeen
    | OverfitSeen
    | OwnModeSeen
    | ResumeSeen
    | RoundingSeen
    | LeftOutSeen
    | AutocastSeen
    | AverageSeen
    | ScalerSeen
)
