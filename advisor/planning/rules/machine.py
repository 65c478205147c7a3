"""What memory and time of a step are predicted by."""

from __future__ import annotations

from advisor import alignment, choice, memory
from advisor.comparison_inputs import NEAR
from advisor.gemm.correction import LIMIT
from advisor.planning import sources
from advisor.planning.rules.record import Rule
from advisor.step_neighbours import BOUND
from advisor.steptime import OVERLAP_POWER
from advisor.units import percent

_ACCURACY = "reports/ACCURACY.md"

RULES = (
    Rule(
        id="memory-sum",
        group="the machine",
        title="The sum alone",
        statement="With a fixed part and a part per sample the largest batch is a division. Sizes are read as exact "
        "fractions, because 0.2 GiB rounded to bytes turns 100 into 99. The largest power of two below is printed with "
        "it and is no better: 18 samples train where 18 fit.",
        formula="largest batch = floor((available - fixed) / per sample)",
        known_range="As good as its three numbers. Peak memory is a line in the batch, but the fixed part holds "
        "context, workspaces and optimizer state, which are easily forgotten.",
        source="arithmetic",
        confidence="exact",
        evidence="(24 - 4) / 0.2 = 100, (12 - 3) / 0.5 = 18.",
    ),
    Rule(
        id="step-memory",
        group="the machine",
        title="What a training step needs",
        statement="Weights, gradients and optimizer state, the live peak of everything else (activations, FP16 copies "
        "of weights, temporaries, taken from the traced step), library workspaces, what the allocator reserves beyond "
        "what it hands out, and the CUDA context. A size fits if this total and a margin of 7.5 % are within what is "
        "free.",
        formula=f"total = {memory.FP32_BYTES} P (1 + s) + buffers + kept gradients + max over lines of (a + b B) + "
        "workspace + 4.5 % of the live peak + context; P parameters, s state tensors "
        f"(SGD with momentum {memory.STATE_TENSORS['sgd']}, Adam {memory.STATE_TENSORS['adam']}); "
        "fits: 1.075 total <= limit",
        known_range="PyTorch with automatic mixed precision; fitted on one RTX 3090. Longer inputs and evaluation are "
        "not in it.",
        source=f"{_ACCURACY}, Memory on the RTX 3090",
        confidence="measured here",
        evidence="On 540 unseen models the margin leaves 0.6 % of predictions too large, and 13.5 % a list entry too "
        "small.",
        constants=("advisor.memory.FP32_BYTES",),
    ),
    Rule(
        id="tiles",
        group="the machine",
        title="Tile quantization",
        statement="A matrix product is computed in output tiles of fixed size. What of the edge tiles lies outside the "
        "result is computed for nothing.",
        formula="tiles = ceil(M/a) ceil(N/b) split_k; efficiency = M N / (ceil(M/a) a ceil(N/b) b); M x N the result, "
        "a x b a tile",
        known_range="Any kernel that works in tiles. Which tile a library takes is read off or predicted.",
        source=f"{sources.NVIDIA_MATMUL}, section 3.1",
        confidence="exact",
        evidence="Of 40,478 kernels whose names tell their tile, the count is the grid the driver saw in 97.5 %.",
    ),
    Rule(
        id="waves",
        group="the machine",
        title="Wave quantization",
        statement="A GPU runs as many tiles at once as it has slots. The last round is seldom full, and the empty "
        "slots wait. This is a diagnosis, no bill: with several tiles per SM a part-full round runs each tile "
        "faster, and memory-bound kernels saturate early. What is lost is what the time model says. Persistent, "
        "stream-K and split-K kernels fill their wave by design.",
        formula="slots = SMs x resident CTAs per SM; w = tiles / slots; efficiency = w / ceil(w)",
        known_range="Kernels with one CTA per tile. Nsight's tail rule, 1 / (1 + floor(w)), says 20 % at 4.81 waves, "
        "where 3.8 % is idle.",
        source=f"{sources.NVIDIA_MATMUL}, section 3.2",
        confidence="exact",
        evidence="2304 x 1536 in tiles of 256 x 128 is 108 tiles: one full wave on an A100. One column more is 117.",
    ),
    Rule(
        id="occupancy",
        group="the machine",
        title="Resident thread blocks",
        statement="How many blocks an SM holds at once is set by the resource that runs out first. It is here to count "
        "slots. It is not speed: fast attention kernels run near 13 %.",
        formula="resident CTAs = min over threads, registers, shared memory, blocks of floor(SM has / block needs, "
        "rounded up to the grain)",
        known_range="Compute capability 5.0 to 12.1.",
        source="NVIDIA, cuda_occupancy.h of CUDA 13; CUDA C++ Programming Guide",
        confidence="exact",
        evidence="The same rules as the calculator that NVIDIA ships.",
    ),
    Rule(
        id="alignment",
        group="the machine",
        title="Alignment for Tensor Cores",
        statement="Each operand's rows should start on a boundary of "
        f"{alignment.GOOD_BYTES} bytes (FP16: a multiple of {alignment.GOOD_BYTES // 2} elements), from the A100 on "
        f"best of {alignment.CACHE_LINE_BYTES} bytes ({alignment.CACHE_LINE_BYTES // 2} elements). This concerns each "
        "operand's contiguous dimension: features of linear layers, channels of NHWC convolutions, head and sequence "
        "dimensions of attention. The batch is contiguous in none of them: see batch-multiples-of-8.",
        formula="alignment = largest power of two that divides row elements x bytes per element",
        known_range="Dense products on Tensor Cores. Before cuBLAS 11 and cuDNN 7.6.3 unaligned meant no Tensor Cores.",
        source=f"{sources.NVIDIA_MATMUL}, table 2; {sources.ANTHONY_2024}",
        confidence="well supported",
        evidence="A100, FP16: contraction odd 72, 2 or 4: 173, multiple of 8: 256 TFLOP/s; output dimension odd 74, "
        "2 or 4: 138, 8: 226.",
        constants=("advisor.alignment.GOOD_BYTES", "advisor.alignment.CACHE_LINE_BYTES"),
    ),
    Rule(
        id="implicit-gemm",
        group="the machine",
        title="A convolution as a matrix product",
        statement="Convolutions run as products without building the large matrix. The batch steps through the rows "
        "forward (fprop) and in the input's gradient (dgrad). In the weights' gradient (wgrad) it is the contraction, "
        "so there split-K decides and no wave starts with a sample.",
        formula="fprop M = N P Q, N = K, K = C R S; dgrad M = N H W, N = C, K = K R S at stride 1; "
        "wgrad M = K, N = C R S, K = N P Q; on the right N images, C channels of H x W in, K of P x Q out, filters of "
        "R x S",
        known_range="The sizes are exact. Time is not: libraries also use Winograd and others.",
        source=f"{sources.NVIDIA_CONVOLUTION}, section 2.3; CUTLASS, implicit_gemm_convolution.md",
        confidence="exact",
        evidence="Single FP32 convolutions of a recorded job are predicted 24 % off in the mean, 39 % by the step "
        "model alone.",
    ),
    Rule(
        id="gemm-time",
        group="the machine",
        title="Time of a matrix product",
        statement="The slowest of arithmetic in rounds of tiles, traffic from L2 and traffic from DRAM, plus launch "
        "and the reduction of split-K, with fitted coefficients per GPU; the least over the tiles a library would "
        f"take. Near measured sizes a correction is added, never beyond a factor of e^{LIMIT:g}, that fades to "
        "nothing away from them.",
        formula="t = launch + (arithmetic^4 + L2^4 + DRAM^4)^(1/4) + split-K; rounds = w + hardness (ceil(w) - w) >= "
        "1, w waves, hardness from 0 to 1",
        known_range="A100, H100, H200, B200, L40S, RTX PRO 6000 and V100 have timings of their own; others borrow the "
        "nearest GPU's, scaled by their facts.",
        source=f"{sources.WILLIAMS_2009}; {sources.AICONFIGURATOR}",
        confidence="measured here",
        evidence="Mean error on sizes not in the fit 2.4 to 6.2 % on six GPUs. On a GPU without timings 6 to 37 %.",
        constants=("advisor.gemm.correction.LIMIT",),
    ),
    Rule(
        id="step-time",
        group="the machine",
        title="Time of a training step",
        statement="The GPU's time is the sum of its kernels, the host's is the sum of its launches. The step takes the "
        "longer, rounded where they meet. So small batches are flat: the GPU waits for launches. Then time is nearly a "
        "line in the batch.",
        formula=f"t = (gpu^{OVERLAP_POWER} + host^{OVERLAP_POWER})^(1/{OVERLAP_POWER}); "
        "host = launches x time per launch",
        known_range="Eager PyTorch. torch.compile, gradient exchange and data loading are not in it: see not-in-the-"
        "time.",
        source=f"{_ACCURACY}, Training steps on the RTX 3090",
        confidence="measured here",
        evidence="Mean error of samples/s on unseen models of the RTX 3090 5.6 % (NHWC) and 4.4 % (NCHW); on other "
        "GPUs 11.5 %, checked with inference.",
        constants=("advisor.steptime.OVERLAP_POWER",),
    ),
    Rule(
        id="measured-neighbours",
        group="the machine",
        title="Correction beside measured models",
        statement="A model that spends its time as measured ones do takes over what the physical form missed in them, "
        f"up to a factor of e^{BOUND:g}. It is one constant for a model, so it moves no knee and no cliff.",
        formula="ln correction = Gaussian-process mean over shares of time by class",
        known_range="The RTX 3090, from which it fades away with distance.",
        source="Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equation 2.25",
        confidence="measured here",
        evidence="Mean error 5.6 % with it, 6.6 % without (NHWC, unseen models).",
        constants=("advisor.step_neighbours.BOUND",),
    ),
    Rule(
        id="sustained-clock",
        group="the machine",
        title="Clocks under a power limit",
        statement="Short bursts run near boost clock, training does not. An SM at full load is taken to need 2.5 W per "
        "GHz, 1.4 W on compute capability 8.9 and 12. Where the board has less, Tensor Cores slow down by that share.",
        formula="share = min(1, TDP / (SMs x boost GHz) / need)",
        known_range="A stated assumption, from five cards.",
        source="advisor.steptime.sustained_share",
        confidence="rule of thumb",
        evidence="Long products on the L40S (0.98 W per SM and GHz) run at 0.70 of the short ones' speed.",
    ),
    Rule(
        id="error-bars",
        group="the machine",
        title="Every prediction carries an error",
        statement="The error printed is the mean |ln(predicted / measured)| over rows that no fit has seen, on a card "
        "like yours: the same GPU, or another one. It is never that of the fit itself.",
        formula="error = mean |ln(predicted / measured)|; told apart with that of nine rows in ten",
        known_range="As far as the held-out rows are like your model.",
        source=_ACCURACY,
        confidence="measured here",
        evidence="The report is regenerated by one command, and a test holds it current.",
    ),
    Rule(
        id="gpu-comparison",
        group="the machine",
        title="Which GPU is faster, if one can tell",
        statement="Two GPUs are told apart if their samples/s differ by more than both errors together: those that "
        f"nine predictions in ten stay within, taken as independent, and {percent(choice.TIE)} at the least. "
        "Otherwise they are said to tie.",
        formula=f"|ln(v1 / v2)| > max({choice.TIE:g}, sqrt(e1^2 + e2^2)), e the 90th percentile of the error",
        known_range="Cards predicted from the same coefficients share errors, so this is cautious.",
        source="propagation of independent errors",
        confidence="chosen",
        evidence="How much two cards' errors cancel is not known; RTX 4090 and 5090 err in opposite directions.",
        constants=("advisor.choice.TIE",),
    ),
    Rule(
        id="cost-and-energy",
        group="the machine",
        title="Cost and energy",
        statement="Cost is price times time, as uncertain as the time. Energy is power times time. Power counts as "
        f"measured where steps of this model were recorded at a batch at most {NEAR:g} times smaller or larger. "
        "Otherwise the board's power is taken, the energy is an upper bound, and it is called one.",
        formula="cost = price per hour x GPUs x time; energy = power x GPUs x time",
        known_range="The GPUs alone: no host, no network, no cooling.",
        source="arithmetic; the GPU's facts, each with its source",
        confidence="exact",
        evidence="Upper bounds are not compared with each other.",
        constants=("advisor.comparison_inputs.NEAR",),
    ),
    Rule(
        id="not-in-the-time",
        group="the machine",
        title="What the predicted time leaves out",
        statement="Exchange of gradients between GPUs, loading of data and torch.compile. If your GPU waits for "
        "data, no batch size helps. --exchange adds what each step waits for other GPUs, as you measured it.",
        formula="time of a step = predicted + exchange, where --exchange gives it",
        known_range="All predictions.",
        source="README, What it does not do",
        confidence="out of scope",
        evidence="They depend on network, storage and compiler, of which nothing is known here.",
    ),
)
