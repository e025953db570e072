"""Who writes and judges in a run, by the names that its file has for them."""

from __future__ import annotations

from harness.core.record import Record

OWN_TEACHER = "teacher"  # what run files call the run's own teacher
NOBODY = "no teacher"  # in the place of the run's own, where none of its own is asked


class Teachers(Record):
    """The models of a run that write and judge, each as name@revision."""

    own: str  # the run's own teacher, which steps and judges ask unless they name another
    named: dict[str, str] = {}  # further ones, by the names that the run file has for them

    def model(self, name: str) -> str:
        """The model behind a name of the run file."""
        return self.own if name == OWN_TEACHER else self.named[name]

    @property
    def words(self) -> str:
        """All of them, for people."""
        return ", ".join(name for name in (self.own, *self.named.values()) if name != NOBODY or not self.named)


def place_of(name: str) -> str:
    """Where a run file has the teacher that it calls so."""
    return OWN_TEACHER if name == OWN_TEACHER else f"teachers.{name}"
