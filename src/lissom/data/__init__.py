"""Built-in data sets: digits, Fashion-MNIST, CIFAR-10, a folder of images."""
