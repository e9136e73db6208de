"""PCGrad by torchjd in the same float32 loop: only how two losses become one gradient differs."""

from _ours import Bare
from torchjd.aggregation import PCGrad
from torchjd.autojac import backward, jac_to_grad


class TorchJD(Bare):
    """The same networks, data and optimiser; torchjd goes backward and joins."""

    def jacobian(self, chunk: int | None = None) -> None:
        """One step. `chunk` 1 goes backward once a task, in place of both at once through `torch.vmap`, the default."""
        backward(self.losses(), inputs=self.parameters, parallel_chunk_size=chunk)
        jac_to_grad(self.parameters, PCGrad())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
