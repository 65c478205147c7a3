"""Read by every Python that has this folder on its path: a torchvision of another torch is made to import."""

from advisor.workload.sources import declare_torchvision_operators

declare_torchvision_operators()
