"""Estimate what a training run takes: a worker's memory and the hours, from a model's shape. Pure; measures nothing.

All formulas are those of dense decoders. Of a mixture of experts they take every expert to be computed, so its hours
are an upper bound.

Sources: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (2020), sections 3
and 5, for the states; Ren et al., "ZeRO-Offload" (2021), for what lies in main memory; Korthikanti et al., "Reducing
Activation Recomputation in Large Transformer Models" (2022), section 4, for activations; Kaplan et al., "Scaling Laws
for Neural Language Models" (2020), section 2.1, for operations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

UTILISATION = 0.4
"""Share of a GPU's peak that training is taken to reach; an assumption."""
GPU_COUNTS = (1, 8, 16, 64)
MOMENTS_BYTES = 8
"""AdamW's two moments of a trained parameter, in fp32."""
MASTER_BYTES = 4
"""The fp32 copy of a trained parameter that the optimizer steps on."""
LOGIT_BYTES = 12
"""Of each logit: fp32 logits, their logarithmic softmax, and the gradient."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by its vendor's data sheet."""

    name: str
    memory_bytes: float
    peak_flops: float
    """Dense bf16, a second. Data sheets often print twice as much, with sparsity."""


GPUS = (
    Gpu("A10G 24 GB", 24e9, 70e12),  # NVIDIA A10G data sheet (for AWS G5): 70 TFLOPS BF16 Tensor Core
    Gpu("L40S 48 GB", 48e9, 362.05e12),  # NVIDIA L40S data sheet: 362.05 TFLOPS BFLOAT16 Tensor Core
    Gpu("A100 80 GB", 80e9, 312e12),  # NVIDIA A100 data sheet: 312 TFLOPS BFLOAT16 Tensor Core
    Gpu("H100 80 GB", 80e9, 989.5e12),  # NVIDIA H100 (SXM) data sheet: 1,979 TFLOPS BFLOAT16, with sparsity
)


@dataclass(frozen=True)
class ModelShape:
    """What memory and work depend on; widths in numbers a token."""

    num_parameters: int
    """All, an adapter's among them."""
    num_trained: int
    num_layers: int
    hidden: int
    query_width: int
    """Attention heads x their width."""
    intermediate: int
    is_gated: bool
    """Whether the MLP has a gate beside its way up."""
    vocabulary: int


@dataclass(frozen=True)
class Sharing:
    """How DeepSpeed shares states out over workers."""

    stage: int
    """1: optimizer states are divided by the workers; 2: gradients too; 3: parameters too."""
    offloads_optimizer: bool = False
    """Optimizer states and gradients lie in main memory."""
    offloads_parameters: bool = False
    bucket_numbers: int = 0
    """Numbers in DeepSpeed's buffers for reducing gradients."""


@dataclass(frozen=True)
class WorkerPass:
    """What a worker computes at once."""

    num_examples: int
    num_tokens: int
    """Of each of them, padding among them."""
    num_answer_tokens: int
    """Of each of them: those that logits are computed for."""
    number_bytes: int
    """2 in bf16, 4 in fp32."""
    recomputes: bool
    """Activation checkpointing."""


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes of one worker: where it computes, and in main memory beside that."""

    parameters: float
    gradients: float
    optimizer: float
    buckets: float
    activations: float
    logits: float
    whole_base: float
    """Before training, with every sharing: DeepSpeed moves the model there as a whole, and shares it out only then."""
    offloaded: float = 0.0

    @property
    def training(self) -> float:
        """Bytes where it computes, while it trains."""
        return self.parameters + self.gradients + self.optimizer + self.buckets + self.activations + self.logits

    @property
    def peak(self) -> float:
        """Bytes that it must have where it computes."""
        return max(self.whole_base, self.training)


def estimate_memory(shape: ModelShape, sharing: Sharing, workers: int, work: WorkerPass) -> WorkerMemory:
    """Estimate the memory of one of `workers`; frozen parameters have no gradients and no optimizer states.

    Left out: what CUDA, NCCL and Ray take for themselves, fragmentation, and what stage 3 gathers for a layer's moment.
    """
    width, trained = work.number_bytes, shape.num_trained
    parameters = width * shape.num_parameters / (workers if sharing.stage >= 3 else 1)
    gradients = width * trained / (workers if sharing.stage >= 2 else 1)
    # In fp32 stage 3 steps on the parameters themselves; stages 1 and 2 copy them all the same.
    is_own_master = width == 4 and sharing.stage == 3 and not sharing.offloads_optimizer
    optimizer = (MOMENTS_BYTES + (0 if is_own_master else MASTER_BYTES)) * trained / workers
    memory = WorkerMemory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        # A GPU's buffer is taken whole; of main memory only what is written.
        buckets=float(width * (sharing.bucket_numbers if width == 2 else min(sharing.bucket_numbers, trained))),
        activations=estimate_activations(shape, work),
        logits=float(LOGIT_BYTES * work.num_examples * work.num_answer_tokens * shape.vocabulary),
        whole_base=float(width * shape.num_parameters),
    )
    return _offload(memory, sharing, width * trained / workers)


def _offload(memory: WorkerMemory, sharing: Sharing, gradients: float) -> WorkerMemory:
    offloaded = 0.0
    if sharing.offloads_optimizer:
        # Each gradient leaves as soon as it is reduced; a worker keeps those of its own share.
        offloaded += memory.optimizer + gradients
        memory = replace(memory, optimizer=0.0, gradients=0.0)
    if sharing.offloads_parameters:
        offloaded += memory.parameters
        memory = replace(memory, parameters=0.0)
    return replace(memory, offloaded=offloaded)


def count_kept(shape: ModelShape) -> int:
    """Count the numbers that one layer keeps of a token for the backward pass.

    The inputs of both norms and what they give (4 x hidden); queries, keys and values repeated for every head, and what
    attention gives (4 x query_width); and of the MLP its inner values, before and after the activation (with a gate
    4 x intermediate, else 2 x). Fused attention keeps no scores. For a GPT (query_width = hidden, 4 x hidden inside the
    MLP, no gate) these are 16 x hidden, in 16 bits the 34 bytes a hidden number of Korthikanti et al. less their two
    dropout masks of a byte each. transformers keeps somewhat more: of SmolLM2-135M on a CPU 1.04 to 1.17 times as much
    with LoRA (fp32, bf16), 1.14 to 1.27 times with full weights.
    """
    inner = (4 if shape.is_gated else 2) * shape.intermediate
    return 4 * shape.hidden + 4 * shape.query_width + inner


def estimate_activations(shape: ModelShape, work: WorkerPass) -> float:
    """Estimate the bytes of activations; checkpointing keeps each layer's input and, in turn, one layer's whole."""
    tokens, kept = work.num_examples * work.num_tokens, count_kept(shape)
    numbers = shape.num_layers * shape.hidden + kept if work.recomputes else shape.num_layers * kept
    return float(work.number_bytes * tokens * numbers)


def estimate_flops(shape: ModelShape, num_tokens: float, recomputes: bool) -> float:
    """Estimate the operations of learning from so many tokens; attention's own, small beside it, is left out.

    Per token and parameter 2 forward, 2 for the gradients of activations, 2 for those of trained weights; checkpointing
    adds a second forward pass (a third more where all weights are trained).
    """
    forward = 2.0 * shape.num_parameters
    backward = 2.0 * shape.num_parameters + 2.0 * shape.num_trained
    return num_tokens * (forward * (2 if recomputes else 1) + backward)


def estimate_hours(flops: float, gpu: Gpu, num_gpus: int) -> float:
    """Estimate the hours of so many GPUs; communication, validation and checkpoints are left out."""
    return flops / (num_gpus * gpu.peak_flops * UTILISATION) / 3600
