"""Time until an event, known only to be later where a patient was no longer followed."""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from milscope.tasks._base import Answers, Loss, Task
from milscope.types import refuse

EVENTS = 2
"""Fewest events among training slides."""


@dataclass(frozen=True)
class Survival(Task):
    """A time, and whether the event happened then (1) or was not seen until then (0)."""

    time: str = "time"
    """Column of the time of the event or of the end of following, in any unit, above 0."""
    event: str = "event"
    """Column of 1 and 0."""
    horizon: float = 0.0
    """The time until which an event makes a slide suspicious; 0: the median of the events' times in training."""

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Task.columns`."""
        return (self.time, self.event)

    def fitted(self, table: pd.DataFrame, split: str = "train") -> "Survival":
        """See `Task.fitted`."""
        targets = self.targets(table)
        times = targets[self.known(targets) & (targets[:, 1] == 1), 0]
        if len(times) < EVENTS:
            raise refuse(f"{split} slides", f"at least {EVENTS} with an event of `{self.name}`", len(times), "Add slides.")
        return replace(self, horizon=self.horizon or float(times.median()))

    @property
    @abstractmethod
    def spelled(self) -> str:
        """What names this very task, with its horizon, in a line of tasks."""

    def targets(self, table: pd.DataFrame) -> Float[Tensor, "slide column"]:
        """See `Task.targets`: time and event."""
        found = []
        for name in self.columns:
            numbers = pd.to_numeric(table[name].replace("", math.nan), errors="coerce")
            odd = numbers.isna() & ~table[name].isin(["", math.nan]) & table[name].notna()
            if odd.any():
                raise refuse(name, "a number", f"`{table.loc[odd, name].iloc[0]}`", "Correct it or leave it empty.")
            found.append(numbers.to_numpy(dtype="float32"))
        time, event = found
        _check(self.time, "a time above 0", time, (time <= 0) | np.isinf(time))
        _check(self.event, "0 or 1", event, ~np.isin(event, (0, 1)) & ~np.isnan(event))
        return torch.from_numpy(np.stack(found, 1))

    def suspicious(self, targets: Float[Tensor, "slide column"]) -> Float[Tensor, " slide"]:
        """See `Task.suspicious`; unknown if a slide was followed for less than the horizon without an event."""
        time, event = targets[:, 0], targets[:, 1]
        early = (time <= self.horizon) & (event == 1)
        known = self.known(targets) & (early | (time >= self.horizon))
        return torch.where(known, early.to(targets.dtype), math.nan)

    @abstractmethod
    def risk(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, " slide"]:
        """The higher, the earlier the event."""

    def measure(self, answers: Answers) -> float:
        """Harrell's concordance of risk and time."""
        time, event = answers.targets.double().numpy().T
        return concordance(time, event, self.risk(answers.logits.double()).nan_to_num().numpy())


@dataclass(frozen=True)
class Cox(Survival):
    r"""Proportional hazards: one logit r, and $h(t) = h_0(t) e^r$.

    $$ L_i = e_i \Big( \log \sum_{j: t_j \ge t_i} e^{r_j} - r_i \Big) $$

    over the slides of the batch; ties by Breslow. The baseline comes from the training slides afterwards.

    Source:
        Cox, Regression models and life-tables, 1972. Breslow, Covariance analysis of censored survival data, 1974.
    """

    baseline: tuple[tuple[float, float], ...] = ()
    """Times of events and the cumulative hazard $H_0$ from there on."""
    kind: ClassVar[str] = "cox"
    compares: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        """See `Task.outputs`."""
        return 1

    @property
    def spelled(self) -> str:
        """See `Survival.spelled`."""
        return f"{self.name}:cox({self.time},{self.event},{self.horizon!r})"

    def loss(self, answers: Answers, how: Loss) -> Float[Tensor, " slide"]:
        """See `Task.loss`; a slide is compared with the others it is given with."""
        time, event = answers.targets.T
        risk = answers.logits[:, 0]
        later = (time[None, :] >= time[:, None]).to(risk.dtype).log()
        return event * ((risk[None, :] + later).logsumexp(1) - risk)

    def risk(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, " slide"]:
        """See `Survival.risk`."""
        return logits[:, 0]

    def calibrated(self, train: Answers, held: Answers, *, temperature: bool) -> "Cox":
        """Breslow's estimate of the cumulative hazard."""
        time, event = train.targets.double().T
        weight = train.logits[:, 0].double().exp()
        times = time[event == 1].unique()
        steps = [((time == moment) & (event == 1)).sum() / weight[time >= moment].sum() for moment in times]
        return replace(self, baseline=tuple(zip(times.tolist(), torch.stack(steps).cumsum(0).tolist(), strict=True)))

    def suspicion(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, " slide"]:
        """See `Task.suspicion`; before the baseline is known, the risk."""
        return logits[:, 0] if not self.baseline else _logit_of_event(self._hazard(self.horizon) * logits[:, 0].exp())

    def told(self, logits: Float[Tensor, "slide logit"]) -> pd.DataFrame:
        """See `Task.told`."""
        weight = logits[:, 0].double().exp().numpy()
        return pd.DataFrame({"risk": logits[:, 0].double().numpy(),
                             f"S:{self.horizon:g}": np.exp(-self._hazard(self.horizon) * weight)})

    def _hazard(self, moment: float) -> float:
        moment = float(np.float32(moment))  # as times are read
        return max((hazard for time, hazard in self.baseline if time <= moment), default=0.0)


@dataclass(frozen=True)
class Hazards(Survival):
    r"""Discrete time: for each interval the logit of an event in it, if there was none before.

    $$ S(k) = \prod_{j \le k} (1 - \sigma(y_j)), \quad
       L = -e (\log S(k-1) + \log \sigma(y_k)) - (1-e) \log S(k) $$

    for a slide whose time lies in interval k; the bounds are quantiles of the events' times in training.

    Source:
        Zadeh, Schmid, Bias in cross-entropy-based training of deep survival networks, 2020, equation 3.
    """

    intervals: int = 4
    bounds: tuple[float, ...] = ()
    """Ends of all intervals but the last; none: quantiles of the events' times in training."""
    kind: ClassVar[str] = "hazards"

    @property
    def outputs(self) -> int:
        """See `Task.outputs`."""
        return len(self.bounds) + 1 if self.bounds else self.intervals

    def fitted(self, table: pd.DataFrame, split: str = "train") -> "Hazards":
        """See `Task.fitted`."""
        task = super().fitted(table, split)
        targets = task.targets(table)
        times = targets[task.known(targets) & (targets[:, 1] == 1), 0].double()
        shares = torch.arange(1, self.intervals).double() / self.intervals
        bounds = self.bounds or tuple(torch.quantile(times, shares).unique().tolist())
        return replace(self, bounds=bounds, horizon=min(bounds, key=lambda bound: abs(bound - task.horizon)))

    @property
    def spelled(self) -> str:
        """See `Survival.spelled`."""
        ends = "".join(f"{bound!r}<" for bound in self.bounds)
        return f"{self.name}:hazards({self.time},{self.event},{ends},{self.horizon!r})"

    def loss(self, answers: Answers, how: Loss) -> Float[Tensor, " slide"]:
        """See `Task.loss`."""
        time, event = answers.targets.T
        bounds = torch.tensor(self.bounds, dtype=time.dtype, device=time.device)
        interval = torch.bucketize(time.contiguous(), bounds)[:, None]
        places = torch.arange(self.outputs, device=time.device)
        survived = functional.logsigmoid(-answers.logits)
        before = (survived * (places < interval)).sum(1)
        then = functional.logsigmoid(answers.logits).gather(1, interval)[:, 0]
        through = survived.gather(1, interval)[:, 0]
        return -before - torch.where(event == 1, then, through)

    def risk(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, " slide"]:
        """See `Survival.risk`: minus the expected number of intervals survived."""
        return -functional.logsigmoid(-logits).cumsum(1).exp().sum(1)

    def suspicion(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, " slide"]:
        """See `Task.suspicion`."""
        within = self.bounds.index(self.horizon) + 1
        return _logit_of_event(-functional.logsigmoid(-logits[:, :within]).sum(1))

    def attention(self, attention: Float[Tensor, "cell logit"]) -> Float[Tensor, " cell"]:
        """See `Task.attention`."""
        return attention[:, : self.bounds.index(self.horizon) + 1].mean(1)

    def told(self, logits: Float[Tensor, "slide logit"]) -> pd.DataFrame:
        """See `Task.told`."""
        survival = functional.logsigmoid(-logits.double()).cumsum(1).exp().numpy()
        return pd.DataFrame({"risk": self.risk(logits.double()).numpy(),
                             **{f"S:{bound:g}": survival[:, place] for place, bound in enumerate(self.bounds)}})


def concordance(time: Shaped[np.ndarray, " slide"], event: Shaped[np.ndarray, " slide"],
                risk: Shaped[np.ndarray, " slide"]) -> float:
    """The share of pairs in which the one with the earlier event has the higher risk; equal risks count half.

    A pair counts if the earlier time is an event, and the later one is later, or as late without an event.

    Source:
        Harrell et al., Evaluating the yield of medical tests, 1982.
    """
    good, pairs = 0.0, 0
    for moment, mine in zip(time[event == 1], risk[event == 1], strict=True):
        others = risk[(time > moment) | ((time == moment) & (event == 0))]
        good += (others < mine).sum() + (others == mine).sum() / 2
        pairs += len(others)
    return float(good / pairs) if pairs else math.nan


def _check(name: str, rule: str, values: Float[np.ndarray, " slide"], odd: Bool[np.ndarray, " slide"]) -> None:
    if odd.any():
        raise refuse(name, rule, f"{values[odd][0]:g}", "Correct it or leave it empty.")


def _logit_of_event(hazard: Float[Tensor, " slide"]) -> Float[Tensor, " slide"]:
    """The logit of 1 - exp(-hazard), exact where the hazard is small or large: log(exp(hazard) - 1)."""
    small = hazard.clamp(1e-12, 20)
    return torch.where(hazard > 20, hazard, small.expm1().log())
