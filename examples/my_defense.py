class Recentred:
    """Subtracts a share of the batch's mean image."""

    def __init__(self, network, share=0.1):
        self.network, self.share = network, share

    def adapt(self, x):
        return x.detach().mean(0)

    def unroll(self, x):
        return x.mean(0)

    def predict(self, x, adaptation):
        return self.network(x - self.share * adaptation)
