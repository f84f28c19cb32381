"""Networks built from the same slots: AlexNet in six readings, ResNet18, VGG11 and three MobileNets.

>>> from alexnet_lab.networks import AlexNet, build_network
>>> AlexNet(10, preset="source2012", norm="bn")
>>> build_network("resnet18", num_classes=3, act="leaky")
"""

from alexnet_lab.networks.alexnet import AlexNet

__all__ = ["AlexNet"]
