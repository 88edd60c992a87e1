"""The training config: every field with its meaning, unit and default in one place, under the field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Strict and frozen: an unknown key or a wrong type is an error, and a run's config never changes under it."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


FLOAT32_MAX = 3.4028234663852886e38  # losses are computed in float32
FULL_LR, LORA_LR = 1e-5, 1e-4  # adapters start at zero and are few: they take, and need, larger steps
Margin = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
PositiveInt = Annotated[int, Field(gt=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Sources = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "reward-model"
    """Name of the run; its directory is `storage`/`name`."""
    storage: str = "runs"
    """Where runs and prepared sets live: a path that every node of the cluster sees."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the order, the head's initial weights and dropout."""


class DataConfig(Section):
    train: Annotated[Sources, Field(min_length=1)]
    """Preference files (JSONL, JSON, Parquet, CSV, plain or gzipped), saved datasets or Hub ids, for training."""
    eval: Sources = []
    """The same, held out. Empty: `holdout` takes prompts from `train`."""
    holdout: Annotated[float, Field(gt=0)] | None = None
    """Where `eval` is empty: a share (< 1) or a count (>= 1) of prompts held out of `train`."""
    columns: dict[str, str] = {}
    """Column mapping, our name to the file's: `{chosen: better, rejected: worse}`."""
    max_length: PositiveInt = 1024
    """Longest prompt + completion, in tokens."""
    over_length: Literal["drop", "truncate_prompt"] = "drop"
    """What becomes of a longer row: dropped and counted, or the prompt's oldest tokens are cut away."""
    think: Literal["keep", "strip"] = "keep"
    """Reasoning traces (<think> ... </think>) of completions: scored with the rest, or taken out first."""
    step_separator: Annotated[str, Field(min_length=1)] = "\n"
    """What ends each step of a solution, for process models: a line feed, an empty line, a token of its own."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of rows that may be quarantined before preparing stops."""
    strict_overlap: bool = False
    """Refuse, rather than warn, when train and eval share prompts."""
    reference: str | None = None
    """File of records that rewards are normalised against, as `rmray import --reference` takes it. null: those of the
    bundle that `model.base` is, else a slice of the held-out comparisons; the bundle keeps them for its successors."""


class LoraConfig(Section):
    r: PositiveInt = 16
    """Rank of the adapters."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Adapters are scaled by `alpha` / `r`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on what the adapters read, and on nothing else."""
    targets: Literal["auto"] | Annotated[list[str], Field(min_length=1)] = "auto"
    """Linear layers that get an adapter, by the ends of their names (`q_proj`, `mlp.up_proj`). auto: those of
    attention."""
    export: Literal["merged", "adapter"] = "merged"
    """The bundle's weights: merged, which plain transformers loads, or base and adapter apart, which needs peft."""


class ModelConfig(Section):
    base: str
    """Base model: a directory or a Hub id. A bundle: training goes on from it (warm start), its head included."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. auto: bfloat16 on a GPU that has it, float32 elsewhere. The head and reductions stay float32."""
    pooling: Literal["last", "mean", "first"] = "last"
    """Where a sequence's score is read: last real token, mean over the completion, or first token (encoders)."""
    lora: LoraConfig | None = None
    """Low-rank adapters, and the head whole, are trained instead of all weights. null: none."""
    freeze: Literal["backbone"] | Annotated[int, Field(ge=0)] | None = None
    """Weights that stay as they are: of all but the head, or of the embedding and the first so many layers."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations in the backward pass. auto: where a forward of useful size would not fit without."""
    packed: Literal["auto"] | bool = "auto"
    """Packed, prefix-shared forward. auto: where the architecture passes the guards, else padded, announced."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout inside the base model."""
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the hidden states that the head reads."""

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.lora is not None and self.freeze is not None:
            raise ValueError(
                f"model.freeze is {self.freeze} beside model.lora, which freezes the whole base already: take one out"
            )
        return self


class ObjectiveConfig(Section):
    name: Literal["bradley_terry", "all_pairs", "plackett_luce", "outcome", "process"] = "bradley_terry"
    """The loss: of each pair; of all pairs of a row, where each row (a ranking) weighs the same, also where several are
    of one prompt; of a row's whole ranking, weighed likewise. A model trained so on correct against wrong answers ranks
    them; it is no outcome model. Those are the other two: whether an answer is right, at each of its tokens; whether
    each step of a solution is right."""
    margin: Literal["none", "data", "rating_difference"] | Margin = "none"
    """Target margin of a pair: none, the row's `margin`, the difference of the row's scores, or a constant."""
    center: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of (r_c + r_r)^2 of a pair, which keeps scores near zero. TRL recommends 0.01."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs whose preference is taken to be turned round: bounds the gap that noisy labels can ask for."""
    aggregate: Literal["auto", "mean", "min", "product"] = "auto"
    """What an outcome or process model makes of its probabilities to score a completion; of the product the logarithm.
    auto: the mean over the tokens of an outcome model, the least over the steps of a process model."""

    @model_validator(mode="after")
    def _check(self) -> ObjectiveConfig:
        if self.name not in ("bradley_terry", "all_pairs"):
            given = {"margin": self.margin != "none", "center": self.center, "label_smoothing": self.label_smoothing}
            wrong = [f"{name} is {getattr(self, name)}" for name, is_set in given.items() if is_set]
            if wrong:
                raise ValueError(
                    f"{' and '.join(wrong)}: an option of pairs, and {self.name} has none; take it out, or use "
                    "all_pairs or bradley_terry"
                )
        if self.aggregate != "auto" and self.name not in ("outcome", "process"):
            raise ValueError(
                f"aggregate is {self.aggregate}: {self.name} gives one score a completion and adds up nothing; "
                "take it out"
            )
        return self

    @property
    def readout(self) -> Literal["tokens", "steps"] | None:
        """Which tokens an outcome or process model reads; None for one score a completion, read by `model.pooling`."""
        readouts: dict[str, Literal["tokens", "steps"]] = {"outcome": "tokens", "process": "steps"}
        return readouts.get(self.name)

    @property
    def score_aggregate(self) -> Literal["", "mean", "min", "product"]:
        """What makes one score of the probabilities, `auto` decided; empty where there is one score anyway."""
        usual: dict[str, Literal["mean", "min"]] = {"outcome": "mean", "process": "min"}
        return usual.get(self.name, "") if self.aggregate == "auto" else self.aggregate


class OptimConfig(Section):
    lr: Annotated[float, Field(gt=0)] = FULL_LR
    """Peak learning rate. Not given: 1e-5, and 1e-4 with `model.lora`."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a layer relative to the one above it. The head has the whole rate, layer l of L (counted from 0)
    the rate x layer_decay^(L - l), the embedding x layer_decay^(L + 1)."""
    global_batch_size: PositiveInt = 64
    """Comparisons per optimizer step, over all workers. A prompt's rows share a step, so a step may vary by a few."""
    epochs: PositiveInt = 1
    """Passes over the training set."""
    max_steps: PositiveInt | None = None
    """Stop after so many optimizer steps, whatever `epochs` says."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of steps of linear warm-up, at most 100 steps."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay after warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay."""
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), strict=False)
    """AdamW's betas."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Global gradient norm is clipped to this."""


class WorkersConfig(Section):
    num: PositiveInt | Annotated[tuple[PositiveInt, PositiveInt], Field(strict=False)] = 2
    """Training workers; with GPUs, one GPU each. [least, most]: as many as the cluster has room for, counted at every
    start and each minute."""
    cpus: PositiveInt = 1
    """CPUs, and torch threads, per worker."""
    gpus: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs per worker: 0 or 1."""
    zero_stage: Literal["auto", 0, 1, 2, 3] = "auto"
    """DeepSpeed ZeRO stage. auto: 3 from 2B parameters on several workers, else 0."""
    max_micro_batch_tokens: Literal["auto"] | PositiveInt = "auto"
    """Tokens in one forward of one worker. auto: from free memory, with a safety margin."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """A rank that gets nowhere for so long has hung: the workers are started again. Longer than the longest step."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Failures after which the run gives up, unless there was a new checkpoint since the first of them."""

    @property
    def min_num(self) -> int:
        """Fewest workers the run starts with."""
        return self.num if isinstance(self.num, int) else self.num[0]

    @property
    def max_num(self) -> int:
        """Most workers it uses."""
        return self.num if isinstance(self.num, int) else self.num[1]


class CheckpointConfig(Section):
    storage: str | None = None
    """Where checkpoints are kept: a directory that every node sees, or a URL of any pyarrow file system
    (`s3://bucket/path`). null: `checkpoints` in the run directory."""
    every_steps: PositiveInt = 50
    """Optimizer steps between checkpoints."""
    keep: PositiveInt = 3
    """Newest checkpoints kept."""
    keep_best: bool = True
    """Keep the one with the best held-out accuracy too; each evaluation that finds a better one saves it."""
    background: Literal["auto"] | bool = "auto"
    """Write while training goes on, at the price of losing a few steps more to a crash that comes meanwhile. auto:
    where writing takes longer than is worth waiting for."""
    export: Literal["last", "best"] = "last"
    """Which checkpoint becomes the bundle: of the last step, or of the best held-out accuracy."""


class EvaluateConfig(Section):
    every_steps: PositiveInt = 100
    """Optimizer steps between held-out evaluations; the last step is always evaluated."""
    max_comparisons: PositiveInt | None = None
    """Evaluate on so many held-out comparisons at most while training."""
    patience: PositiveInt | None = None
    """Early stopping: end after so many evaluations in a row without a better held-out accuracy. null: never."""
    report_comparisons: Annotated[int, Field(ge=0)] = 1000
    """Evaluate the finished bundle on so many held-out comparisons at most, for report.html. 0: no report."""


Combine = Literal["mean", "min", "mean_minus_std"]


class EnsembleConfig(Section):
    members: PositiveInt = 1
    """Models trained, with the seeds run.seed, run.seed + 1, ...; where there are several, the run's bundle is their
    ensemble."""
    combine: Combine = "mean"
    """What the members' rewards become: their mean, their least, or their mean less `k` standard deviations."""
    k: Annotated[float, Field(ge=0)] = 1.0
    """Of `mean_minus_std`: how many of the members' standard deviations come off."""


class TrainConfig(Section):
    run: RunConfig = RunConfig()
    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    workers: WorkersConfig = WorkersConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    ensemble: EnsembleConfig = EnsembleConfig()

    @property
    def pooling(self) -> str:
        """Where scores are read, as batches are built: `model.pooling`, or the objective's own read-out."""
        return self.objective.readout or self.model.pooling

    @model_validator(mode="before")
    @classmethod
    def _choose_lr(cls, tree: Any) -> Any:
        """The rate of LoRA where none is given, so that the resolved config holds the one that is used."""
        sections = tree if isinstance(tree, dict) else {}
        model, optim = sections.get("model"), sections.get("optim", {})
        if isinstance(model, dict) and model.get("lora") is not None and isinstance(optim, dict):
            return {**tree, "optim": {"lr": LORA_LR, **optim}}
        return tree

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if "://" in self.run.storage:
            raise ValueError(
                f"run.storage is the URL {self.run.storage!r} and has to be a directory: checkpoint.storage takes URLs"
            )
        if self.run.name == "prepared":
            raise ValueError("run.name is `prepared`, the folder of run.storage that holds prepared sets")
        if self.objective.readout and self.model.pooling != "last":
            raise ValueError(
                f"model.pooling is {self.model.pooling}, and {self.objective.name} reads every token or step: "
                "take it out"
            )
        if self.objective.readout and self.ensemble.members > 1:
            raise ValueError(
                f"ensemble.members is {self.ensemble.members}, and an ensemble combines models of one score a "
                f"completion, which {self.objective.name} models are not: take it out, or train with bradley_terry, "
                "all_pairs or plackett_luce"
            )
        if self.data.eval and self.data.holdout is not None:
            raise ValueError("data.holdout and data.eval exclude each other: held-out prompts come from one of them")
        tokens = self.workers.max_micro_batch_tokens
        if tokens != "auto" and tokens < 2 * self.data.max_length:
            raise ValueError(
                f"workers.max_micro_batch_tokens is {tokens}, but one comparison may take 2 x data.max_length = "
                f"{2 * self.data.max_length} tokens: raise the first or lower the second"
            )
        if self.model.freeze == "backbone" and self.optim.layer_decay != 1:
            raise ValueError(
                f"optim.layer_decay is {self.optim.layer_decay}, but with model.freeze: backbone no layer is trained"
            )
        if self.workers.min_num > self.workers.max_num:
            raise ValueError(f"workers.num is [{self.workers.min_num}, {self.workers.max_num}]: the least comes first")
        if self.optim.global_batch_size < self.workers.max_num:
            raise ValueError(
                f"optim.global_batch_size is {self.optim.global_batch_size} for workers.num {self.workers.max_num}: "
                f"{self.workers.max_num - self.optim.global_batch_size} worker(s) would have nothing to do at any step"
            )
        if self.checkpoint.export == "best" and not self.checkpoint.keep_best:
            raise ValueError(
                "checkpoint.export is best, but checkpoint.keep_best is false: the best one may be deleted"
            )
        if not self.data.eval and self.data.holdout is None:
            wanted = ["evaluate.patience"] if self.evaluate.patience is not None else []
            wanted += ["checkpoint.export: best"] if self.checkpoint.export == "best" else []
            if wanted:
                raise ValueError(
                    f"{' and '.join(wanted)} need held-out accuracy, but nothing is held out: set data.eval or "
                    "data.holdout"
                )
        return self
