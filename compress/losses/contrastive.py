"""A loss with memory: a student's embedding is to be told apart from those of other samples in the teacher's space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import UserError
from compress.losses.checks import check_fit, check_target, check_temperature


class Contrastive(nn.Module):
    """How badly the student's embedding of a sample tells the teacher's of that sample from the teacher's of other classes.

    Both are projected, by learned linear maps, to one space and scaled to length 1: s_i of the student, t_i of the teacher.
    With the critic h(t, s) = exp(t.s / T) / (exp(t.s / T) + N / M), the loss of sample i is

        -log h(t_i, s_i) - sum over its N negatives of log(1 - h(t_j, s_i))

    and the result is its mean over the batch. Negatives are the teacher's embeddings, of other classes, in this batch and in a
    queue of those before; N is counted for each sample, and one without a negative contributes nothing.

    It departs from the paper in this: there, negatives come from a memory of the whole training set with a row for each sample's
    number, and batches here carry no numbers. The queue holds the teacher's embeddings as they came, so that they are projected
    by today's weights and do not age. The authors' code adds the same loss with student and teacher in each other's place; it
    is left out, as a queue of the student's embeddings would age.

    The queue is filled in training mode alone. Projections, queue and position are in the state dict: training that is resumed
    from one goes on as if it had not stopped.

    Args:
        student_width, teacher_width: values of one embedding.
        samples: M, the size of the training set; the default is that of CIFAR.
        dim: of the common space.
        queue: length of the queue; the paper has 16,384 negatives.
        temperature: T above 0.

    Raises:
        UserError: a width, `samples`, `dim` or `queue` below 1, or a temperature of 0 or less.

    Source: Tian et al. 2020, "Contrastive Representation Distillation", section 3.1.
    """

    queue: Tensor
    labels: Tensor
    position: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        *,
        samples: int = 50_000,
        dim: int = 128,
        queue: int = 4096,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = {"student_width": student_width, "teacher_width": teacher_width, "samples": samples, "dim": dim, "queue": queue}
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"Contrastive: {name} must be at least 1, got {size}")
        check_temperature("Contrastive", temperature)
        self.samples, self.temperature = samples, temperature
        self.of_student, self.of_teacher = nn.Linear(student_width, dim), nn.Linear(teacher_width, dim)
        self.register_buffer("queue", torch.zeros(queue, teacher_width))
        self.register_buffer("labels", torch.full((queue,), -1))  # -1 where there is nothing yet
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar; remembers the teacher's embeddings for later batches, in training mode.

        Args:
            student, teacher: (N, ...), flattened to the widths given above.
            target: class indices (N,).

        Raises:
            UserError: embeddings of other widths, or another N; targets that are not one index for each sample.
        """
        self._check(student, teacher, target)
        teacher = teacher.flatten(1)
        own = F.normalize(self.of_student(student.flatten(1)), dim=1)
        others = F.normalize(self.of_teacher(torch.cat([teacher, self.queue])), dim=1)
        labels = torch.cat([target, self.labels])
        negative = (labels != target[:, None]) & (labels >= 0)  # (N, N + queue)
        # h is the sigmoid of t.s / T - log(N / M). Without negatives that is infinite, and both logarithms below are zero.
        logits = own @ others.T / self.temperature - (negative.sum(1, keepdim=True) / self.samples).log()
        losses = -F.logsigmoid(logits.diagonal()) - F.logsigmoid(-logits).masked_fill(~negative, 0).sum(1)
        if self.training:
            self._remember_(teacher, target)
        return losses.mean()

    @torch.no_grad()
    def _remember_(self, teacher: Tensor, target: Tensor) -> None:
        """Put a batch into the queue, in place of the oldest."""
        size = len(self.queue)
        teacher, target = teacher[-size:], target[-size:]
        rows = (self.position + torch.arange(len(teacher), device=teacher.device)) % size
        self.queue[rows] = teacher
        self.labels[rows] = target
        self.position.copy_((self.position + len(teacher)) % size)

    def _check(self, student: Tensor, teacher: Tensor, target: Tensor) -> None:
        own, other = self.of_student.in_features, self.of_teacher.in_features
        widths = [x.shape[1:].numel() if x.ndim > 1 else 0 for x in (student, teacher)]
        wanted = f"both must be (N, ...) with the same N, the student's of {own} values for each sample, the teacher's of {other}"
        check_fit(widths == [own, other] and len(student) == len(teacher), "Contrastive", student, teacher, wanted)
        check_target("Contrastive", student, target)
