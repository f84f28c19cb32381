"""One run of AlexNet, whole: the network and its slots, the data, the training, and what stands in its records."""

__version__ = "0.1.0"
