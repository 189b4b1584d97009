"""What is called of torchvision.transforms.v2."""
