"""The documents that GPU figures come from: name and address."""

from __future__ import annotations

_IMAGES = "https://images.nvidia.com"
_SOLUTIONS = "https://www.nvidia.com/content/dam/en-zz/Solutions"
_RESOURCES = "https://resources.nvidia.com"
_DOCS = "https://docs.nvidia.com"

# White papers
P100_PAPER = f"NVIDIA Tesla P100 white paper, {_IMAGES}/content/pdf/tesla/whitepaper/pascal-architecture-whitepaper.pdf"
V100_PAPER = (
    "NVIDIA Tesla V100 GPU Architecture white paper, table 1, "
    f"{_IMAGES}/content/volta-architecture/pdf/volta-architecture-whitepaper.pdf"
)
TURING = (
    f"NVIDIA Turing GPU Architecture white paper, {_IMAGES}/aem-dam/en-zz/Solutions/design-visualization/technologies/"
    "turing-architecture/NVIDIA-Turing-Architecture-Whitepaper.pdf"
)
A100_PAPER = (
    "NVIDIA A100 Tensor Core GPU Architecture white paper, "
    f"{_IMAGES}/aem-dam/en-zz/Solutions/data-center/nvidia-ampere-architecture-whitepaper.pdf"
)
GA102 = (
    "NVIDIA Ampere GA102 GPU Architecture white paper, "
    "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
)
ADA = (
    "NVIDIA Ada GPU Architecture white paper, appendix A, "
    f"{_IMAGES}/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
)
ADA_PRO = (
    "NVIDIA Ada GPU Architecture white paper for professional graphics, "
    f"{_IMAGES}/aem-dam/en-zz/Solutions/technologies/NVIDIA-ADA-GPU-PROVIZ-Architecture-Whitepaper_1.1.pdf"
)
H100_PAPER = f"NVIDIA H100 Tensor Core GPU Architecture white paper, table 3, {_RESOURCES}/en-us-tensor-core"
RTX_BLACKWELL = (
    "NVIDIA RTX Blackwell GPU Architecture white paper, appendix A, "
    f"{_IMAGES}/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
)
PRO_BLACKWELL = (
    f"NVIDIA RTX Blackwell PRO GPU Architecture white paper, {_SOLUTIONS}/design-visualization/"
    "quadro-product-literature/NVIDIA-RTX-Blackwell-PRO-GPU-Architecture-v1.0.pdf"
)

# Data sheets and product pages
P100 = f"NVIDIA Tesla P100 PCIe data sheet, {_IMAGES}/content/tesla/pdf/nvidia-tesla-p100-PCIe-datasheet.pdf"
P4 = f"NVIDIA Tesla P4 data sheet, {_IMAGES}/content/pdf/tesla/184457-Tesla-P4-Datasheet-NV-Final-Letter-Web.pdf"
V100 = f"NVIDIA V100 data sheet, {_IMAGES}/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
T4 = f"NVIDIA T4 data sheet, {_SOLUTIONS}/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf"
TITAN_RTX = "NVIDIA TITAN RTX product page, https://www.nvidia.com/en-us/deep-learning-ai/products/titan-rtx"
A100 = f"NVIDIA A100 data sheet, {_SOLUTIONS}/Data-Center/a100/pdf/nvidia-a100-datasheet-nvidia-us-2188504-web.pdf"
A30 = f"NVIDIA A30 data sheet, {_SOLUTIONS}/data-center/products/a30-gpu/pdf/a30-datasheet.pdf"
A10 = f"NVIDIA A10 data sheet, {_SOLUTIONS}/Data-Center/a10/pdf/a10-datasheet.pdf"
A10G = (
    "NVIDIA A10G data sheet by AWS, "
    "https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf"
)
A40 = f"NVIDIA A40 data sheet, {_IMAGES}/content/Solutions/data-center/a40/nvidia-a40-datasheet.pdf"
RTX_3060 = "NVIDIA GeForce RTX 3060 page, https://www.nvidia.com/en-us/geforce/graphics-cards/30-series/rtx-3060-3060ti"
RTX_4070 = "NVIDIA GeForce RTX 4070 page, https://www.nvidia.com/en-us/geforce/graphics-cards/40-series/rtx-4070-family"
L4 = f"NVIDIA L4 data sheet, {_RESOURCES}/en-us-data-center-overview/l4-gpu-datasheet"
L40 = f"NVIDIA L40 data sheet, {_RESOURCES}/en-us-data-center-overview/l40-datasheet"
L40S = f"NVIDIA L40S data sheet, {_RESOURCES}/en-us-l40s/l40s-datasheet-28413"
H100 = f"NVIDIA H100 data sheet, {_RESOURCES}/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet"
H200 = (
    f"NVIDIA H200 data sheet, {_RESOURCES}/en-us-data-center-overview-mc/"
    "en-us-data-center-overview/hpc-datasheet-sc23-h200"
)
GH200 = f"NVIDIA GH200 data sheet, {_RESOURCES}/en-us-grace-cpu/grace-hopper-superchip"
HGX = "NVIDIA HGX specifications, per GPU, https://www.nvidia.com/en-us/data-center/hgx"
GB200 = "NVIDIA GB200 NVL72 specifications, https://www.nvidia.com/en-us/data-center/gb200-nvl72"
PRO_SERVER = (
    "NVIDIA RTX PRO 6000 Blackwell Server Edition specifications, "
    "https://www.nvidia.com/en-us/data-center/rtx-pro-6000-blackwell-server-edition"
)
SPARK = f"NVIDIA DGX Spark hardware overview, {_DOCS}/dgx/dgx-spark/hardware.html"

# Programming
CUDA_GUIDE = (
    "CUDA Programming Guide, Technical Specifications per Compute Capability, "
    f"{_DOCS}/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html"
)
THROUGHPUT = (
    "CUDA Programming Guide, throughput of native arithmetic instructions, "
    f"{_DOCS}/cuda/cuda-c-programming-guide/index.html#arithmetic-instructions"
)
TUNING = f"NVIDIA Blackwell Tuning Guide, {_DOCS}/cuda/blackwell-tuning-guide"
CUDNN = (
    "dense MMA FLOP per clock and SM in NVIDIA's attention benchmarks, "
    "https://github.com/NVIDIA/cudnn-frontend/tree/main/benchmark"
)
MIG = f"NVIDIA Multi-Instance GPU User Guide, {_DOCS}/datacenter/tesla/mig-user-guide"

# Not documents of the maker
DRIVER = "what the driver reports (nvidia-smi, CUDA device attributes), in published logs"
CUDA_MEMORY = "the least that published outputs of torch.cuda.get_device_properties show on Linux with default ECC"
