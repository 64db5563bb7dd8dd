"""What settings of other trainers are called here."""

from __future__ import annotations

from tutelage.recipe.yaml import Place

_MODEL = {
    # transformers: TrainingArguments
    "learning_rate": "optim.lr",
    "per_device_train_batch_size": "optim.batch_rows",
    "per_gpu_train_batch_size": "optim.batch_rows",
    "train_batch_size": "optim.batch_rows",
    "gradient_accumulation_steps": "optim.micro_batch_rows",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "warmup_ratio": "optim.warmup_steps",
    "warmup_steps": "optim.warmup_steps",
    "lr_scheduler_type": "optim.schedule",
    "lr_scheduler": "optim.schedule",
    "weight_decay": "optim.weight_decay",
    "adam_beta1": "optim.betas",
    "adam_beta2": "optim.betas",
    "adam_epsilon": "optim.eps",
    "max_grad_norm": "optim.clip",
    "optimizer": "optim.kind",
    "bf16": "precision",
    "fp16": "precision",
    "dtype": "precision",
    "torch_dtype": "precision",
    "torch_compile": "compile",
    "attn_implementation": "attention",
    "eval_steps": "evaluations",
    "eval_strategy": "evaluations",
    "evaluation_strategy": "evaluations",
    "save_steps": "save_minutes",
    "save_strategy": "save_minutes",
    "save_total_limit": "keep",
    "fsdp": "sharding",
    "deepspeed": "sharding",
    "model_name_or_path": "weights",
    "model_name": "weights",
    "pretrained": "weights",
    # Lightning, nanoGPT, torchtune, axolotl
    "batch_size": "optim.batch_rows",
    "micro_batch_size": "optim.micro_batch_rows",
    "accumulate_grad_batches": "optim.micro_batch_rows",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "max_iters": "steps",
    "max_train_steps": "steps",
    "total_steps": "steps",
    "warmup_iters": "optim.warmup_steps",
    "num_warmup_steps": "optim.warmup_steps",
    "gradient_clip_val": "optim.clip",
    "grad_clip": "optim.clip",
    "scheduler": "optim.schedule",
    # distillation
    "teacher": "stages.0.teachers",
    "teachers": "stages.0.teachers",
    "alpha": "stages.0.objectives.distill",
    "temperature": "stages.0.objectives.distill.temperature",
}
_RECIPE = {
    "max_length": "data.rows.length",
    "max_seq_length": "data.rows.length",
    "seq_length": "data.rows.length",
    "sequence_len": "data.rows.length",
    "block_size": "data.rows.length",
    "vocab_size": "data.tokenizer.vocab_size",
    "dataset": "data.corpus",
    "dataset_name": "data.corpus",
    "train_file": "data.corpus",
    "run_name": "name",
    "output_dir": "name",
}
_REMARKS = {
    "gradient_accumulation_steps": " is how many rows are in memory at once; `optim.batch_rows` counts all of a step",
    "accumulate_grad_batches": " is how many rows are in memory at once; `optim.batch_rows` counts all of a step",
    "warmup_ratio": " counts steps, not a share",
    "output_dir": " names the folder, in the one that --runs gives",
    "eval_steps": " is how many there are in all",
    "save_steps": " is the longest time between two checkpoints",
}


def named_here(place: Place) -> str | None:
    """Say how the setting at a place of a recipe is written here, if it is one of another trainer; else None."""
    key = str(place[-1])
    if len(place) > 1 and place[0] not in ("models", "data"):
        return None  # fine-tuning has settings of its own
    if key in _RECIPE:
        ours = _RECIPE[key]
    elif key in _MODEL and place[0] != "data":
        ours = f"models.*.{_MODEL[key]}"
    else:
        return None
    return f"here it is `{ours}`" + (f", which{_REMARKS[key]}" if key in _REMARKS else "")
