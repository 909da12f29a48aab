import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed


class Stripes(torch.utils.data.Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 2, (n,), generator=g)
        self.images = 0.3 * torch.randn(n, 3, 16, 16, generator=g)
        self.images[self.labels == 0, :, ::4] += 1.0
        self.images[self.labels == 1, :, :, ::4] += 1.0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"pixel_values": self.images[i], "labels": self.labels[i]}


def main():
    set_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        num_labels=2,
        id2label={0: "rows", 1: "columns"},
        label2id={"rows": 0, "columns": 1},
    )
    trainer = Trainer(
        model=ViTForImageClassification(config),
        args=TrainingArguments(
            output_dir="out-vit",
            num_train_epochs=3,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=2e-3,
            weight_decay=0.01,
            warmup_steps=2,
            logging_steps=4,
            eval_strategy="epoch",
            save_strategy="no",
            remove_unused_columns=False,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Stripes(192, 0),
        eval_dataset=Stripes(48, 1),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    print(trainer.evaluate()["eval_accuracy"])


if __name__ == "__main__":
    main()
