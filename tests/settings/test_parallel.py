"""How ranks share sequences: the names that a configuration may say."""

from ringattn.settings.parallel import KERNEL_NAMES


def test_the_kernels_have_their_names():
    from ringattn.kernels import KERNELS, LANDMARK_KERNELS

    assert ("auto", *(kernel.name for kernel in (*KERNELS, *LANDMARK_KERNELS))) == KERNEL_NAMES
