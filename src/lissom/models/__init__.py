"""The networks of the papers in their CIFAR forms, and the way to everybody else's."""
