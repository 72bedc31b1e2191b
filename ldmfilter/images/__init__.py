"""Self-supervised objectives on pairs of images, as latent distribution matching, and the training of encoders by them.

    from ldmfilter.images.sources import cifar10
    from ldmfilter.images.training import PairConfig, PairTraining, load_encoder

    config = PairConfig(objective="sphere_knn", options={"mutual_information": False}, epochs=200)
    training = PairTraining(config, cifar10("data", "train"), cifar10("data", "test"))
    for record in training.run():
        print(record)
        training.save("sphere_knn.safetensors")

`objectives` has one function a cell of the paper's figure 3; `networks`, `augment`, `optim`, `probes` the parts of a
training. Views of images need kornia: pip install 'ldmfilter[images]'.
"""
