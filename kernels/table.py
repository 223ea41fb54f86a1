"""The built-in operations: name -> module whose `OPERATION` is the kernel. One line per member."""

from __future__ import annotations

from collections.abc import Mapping

KERNELS: Mapping[str, str] = {
    "matmul": "pointsman.kernels.matmul",
    "fft": "pointsman.kernels.fft",
    "conv": "pointsman.kernels.conv",
    "element_wise": "pointsman.kernels.element_wise",
    "reduction": "pointsman.kernels.reduction",
    "derivative": "pointsman.kernels.derivative",
    "pairwise_distance": "pointsman.kernels.pairwise_distance",
    "iterative": "pointsman.kernels.iterative",
    "neural_network": "pointsman.kernels.neural_network",
    "cumulative_sum": "pointsman.kernels.cumulative_sum",
    "sort": "pointsman.kernels.sort",
    "softmax": "pointsman.kernels.softmax",
    "cwt": "pointsman.kernels.cwt",
    "wavelet_coherence": "pointsman.kernels.coherence",
}
