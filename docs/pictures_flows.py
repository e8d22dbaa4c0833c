"""The gallery's picture of models whose pixels read other pixels."""


def windows(pair, run):
    """The run's images, and what they are where a pixel has no mean of its own."""
    caption = (
        "Held-out data, their reconstructions, and samples from the prior: each pixel's probability given its window, "
        "averaged over draws for a reconstruction, in one draw for a sample."
    )
    return (run / "images.png").read_bytes(), caption


DRAW = {"LossyVAE": windows}
