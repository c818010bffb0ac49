"""What hardware does in a second, and what a recipe asks of it: every constant of the planner.

Each stands beside its source. None is fitted to the paper's hours. `COMPUTE_SHARE` alone is chosen
to meet a published rate; `tests/forecast/test_published.py` holds the others against nine.
"""

from dataclasses import dataclass
from typing import Literal

_GB, _TERA = 1e9, 1e12

WireKind = Literal["NVLink", "GbE", "RoCE", "IB"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by its datasheet: peaks, not what is reached of them."""

    name: str
    half_flops: float
    """Dense fp16 or bf16 operations a second, on tensor cores."""
    single_flops: float
    """float32 operations a second."""
    convolution_flops: float
    """The same in convolutions, which torch lets use TF32 where there is any."""
    memory_bytes_per_s: float
    memory_bytes: float
    host_bytes_per_s: float
    """PCIe, one direction, all lanes."""
    link_bytes_per_s: float
    """NVLink to the other GPUs of the node, one direction, all links."""
    has_bf16: bool = True


def _volta(name: str, memory_gb: float) -> Gpu:
    return Gpu(
        name=name, half_flops=125 * _TERA, single_flops=15.7 * _TERA,
        convolution_flops=15.7 * _TERA, memory_bytes_per_s=900 * _GB, memory_bytes=memory_gb * _GB,
        host_bytes_per_s=15.75 * _GB, link_bytes_per_s=150 * _GB, has_bf16=False,
    )  # fmt: skip


def _hopper(name: str, memory_gb: float, memory_tb_per_s: float) -> Gpu:
    return Gpu(
        name=name, half_flops=989 * _TERA, single_flops=67 * _TERA, convolution_flops=495 * _TERA,
        memory_bytes_per_s=1000 * memory_tb_per_s * _GB, memory_bytes=memory_gb * _GB,
        host_bytes_per_s=63 * _GB, link_bytes_per_s=450 * _GB,
    )  # fmt: skip


_AMPERE = Gpu(
    name="A100", half_flops=312 * _TERA, single_flops=19.5 * _TERA, convolution_flops=156 * _TERA,
    memory_bytes_per_s=2039 * _GB, memory_bytes=80 * _GB, host_bytes_per_s=31.5 * _GB,
    link_bytes_per_s=300 * _GB,
)  # fmt: skip
GPUS = {
    gpu.name: gpu
    for gpu in (
        _volta("V100", 16),
        _volta("V100-16GB", 16),
        _volta("V100-32GB", 32),
        _AMPERE,
        _hopper("H100", 80, 3.35),
        _hopper("H200", 141, 4.8),
    )
}
"""The SXM modules of NVIDIA's datasheets (Tesla V100, A100 80GB, H100, H200), without sparsity.
A V100 of unnamed size has 16 GB, the less of both."""

MEMORY_SHARE = 0.83
"""Share of the memory's peak that a kernel gets: 750 of a V100's 900 GB/s (Jia et al. 2018,
Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking, Table 3.1)."""
COMPUTE_SHARE = 0.5
"""Share of the peak that a convolution or a matrix product gets. With it a ResNet-50 in fp16,
channels-last, takes a V100 as long as it does in NVIDIA's DeepLearningExamples (ResNet50 v1.5 for
PyTorch, container 21.03: 1,156 to 1,200 images/s; predicted: 1,137)."""
HOST_SHARE = 0.72
"""Share of PCIe's peak that a copy from pinned memory gets: 90 of 126 Gb/s on a node of V100s
(github.com/NVIDIA/nccl issue 398)."""
LINK_SHARE = 0.77
"""NCCL's bus bandwidth within a node, over NVLink's peak: 231 of 300 GB/s on eight A100
(github.com/NVIDIA/nccl issue 527)."""
LAUNCH_S = 20e-6
"""Host time of one operation: ours, an estimate between the 56 µs of a DGX-1 (a ResNet-50's forward
takes 12.8 ms for 1 to 16 images: DeepLearningExamples, ResNet50 v1.5 for PyTorch, mixed precision;
it has 230 operations, by trace.py) and the few µs of a bare launch."""

SOCKET_SHARE, SOCKET_BYTES_PER_S = 0.7, 5 * _GB
"""NCCL's bus bandwidth over TCP, four nodes of eight V100: 22.4 of 32 Gb/s (github.com/NVIDIA/nccl
issue 209), and on 100 Gb/s no more than 4 to 6 GB/s (issue 450). A card gives the less of both."""
RDMA_SHARE = 0.95
"""The same over InfiniBand or RoCE: 12.2 of 12.5 GB/s, four nodes of eight V100, "as good as you
can get" (github.com/NVIDIA/nccl-tests issue 29); 46 to 48 of 50 GB/s a card (issue 290)."""
LATENCY_S: dict[WireKind, float] = {"GbE": 150e-6, "RoCE": 50e-6, "IB": 50e-6, "NVLink": 20e-6}
"""An all-reduce of a few kB. IB: 46 µs on two nodes (github.com/NVIDIA/nccl issue 1244), 63 on 32
(issue 652). GbE: four hops of a tree of four nodes, 38 µs each (nccl-tests issue 82). NVLink:
ours, an estimate; a launch of NCCL alone is 14 µs (nccl issue 652)."""

CONTEXT_BYTES = 0.5 * _GB
"""A CUDA context with torch's kernels: an estimate, as NCCL's below."""
COMMUNICATOR_BYTES = 0.5 * _GB
"""Buffers of one of NCCL's communicators."""
BUCKET_BYTES, FIRST_BUCKET_BYTES = 25 * 2**20, 2**20
"""DistributedDataParallel's defaults."""

IMAGENET_IMAGES, IMAGENET_IMAGE_BYTES = 1_281_167, 110_000
"""ILSVRC 2012's training images, and their mean size (docs/data.md)."""
DECODED_PER_S = {"Pillow": 71.0, "loader": 224.0, "device": 366.0}
"""ImageNet JPEGs that a core turns into two views a second, by who does the photometry: an older
EPYC, the slowest of three CPUs in docs/performance.md, `python -m benchmarks.views`."""
PHOTOMETRY_BYTES = 0.69 * _GB / (64 * 2 * 3 * 224**2)
"""Bytes that photometry and normalisation move for each value of a view: 0.69 GB for 64 images of
224 pixels in two views (tests/data/stream/test_feed.py; docs/performance.md)."""
PHOTOMETRY_LAUNCHES = 14
"""Kernels of a step's photometry and normalisation (likewise)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a step is written, where that decides how long it takes."""

    name: str
    views_apart: bool
    """The views pass one after the other: twice the launches and batch norm's exchanges, and no
    gradient is complete before the second one's backward."""
    own_communicator: bool
    """Batch norm's exchanges do not queue behind the gradients'."""
    norm_launches: int
    """Operations of a batch norm that exchanges, forward and backward together."""
    norm_passes: int
    """Reads or writes of its rows, beyond those of torch's kernels."""
    gradients_as_set: bool
    """Gradients travel as `training.gradient_dtype` says; else in float32."""
    whole_correlation: bool
    """The loss makes the D×D matrix in the encoder's precision, and sums it over the workers."""
    optimizer_bytes: int
    """Bytes that LARS and the scaler move for each parameter."""
    matrix_launches: int
    """LARS' kernels for each weight that it adapts."""
    vector_launches: int
    """And for each that it does not."""
    optimizer_launches: int
    """And for all together."""
    side_stream: bool
    """Copies and photometry run beside the model, which then waits for neither."""
    photometry_by_pillow: bool
    """Processes on the CPUs make the views, which travel as float32."""
    temporary_bytes: int
    """Bytes that LARS holds for a moment for each parameter."""

    @property
    def passes(self) -> int:
        """Times that a step passes through the model."""
        return 2 if self.views_apart else 1


OURS = Recipe(
    name="this run",
    views_apart=False,
    own_communicator=True,
    norm_launches=23,
    norm_passes=2,
    gradients_as_set=True,
    whole_correlation=False,
    optimizer_bytes=36,
    matrix_launches=2,
    vector_launches=0,
    optimizer_launches=39,
    side_stream=True,
    photometry_by_pillow=False,
    temporary_bytes=0,
)
"""The counts in docs/performance.md. Batch norm: 1,265 launches for 55 layers, 20 bytes an element
where torch's kernels move 16 (tests/gpu/test_budget.py). LARS reads w and g for the norms, then w,
g and m, and writes w and m: 7 × 4 bytes; the scaler of fp16 looks at g and writes it back: 2 × 4.
Their launches: tests/optim/test_lars_traffic.py."""
PLAIN = Recipe(
    name="written plainly",
    views_apart=True,
    own_communicator=False,
    norm_launches=15,
    norm_passes=0,
    gradients_as_set=False,
    whole_correlation=True,
    optimizer_bytes=68,
    matrix_launches=14,
    vector_launches=3,
    optimizer_launches=0,
    side_stream=False,
    photometry_by_pillow=True,
    temporary_bytes=4,
)
"""The paper's method in torch's own parts, as its reference code has it: SyncBatchNorm, DDP, AMP in
fp16, LARS tensor by tensor, views by Pillow. Batch norm: 1,650 launches for 2 × 55 layers. LARS:
15 reads or writes of each float32 (docs/performance.md), and two more to unscale."""
NORMS_BEFORE_LOSS = 1
"""Batch norms that the plain recipe puts between embeddings and loss."""
PASSES_OVER_CORRELATION = 10
"""Reads or writes of the D×D matrix, forward and backward (bt_ray/objective/forms.py)."""
