"""The model that both sides serve: how long a batch takes, and how many calls a second that allows."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Curve:
    """`batch_seconds` for every batch and `row_seconds` for every row in it, at most `max_rows` at a time."""

    batch_seconds: float = 0.010
    row_seconds: float = 0.0005
    max_rows: int = 32

    def __str__(self):
        return f"{self.batch_seconds * 1e3:.4g} ms a batch and {self.row_seconds * 1e3:.4g} ms a row"

    def seconds(self, rows):
        return self.batch_seconds + self.row_seconds * rows

    def highest_rate(self, instances):
        """One-row calls a second of that many instances that run full batches without a pause."""
        return instances * self.max_rows / self.seconds(self.max_rows)

    def slower(self, factor):
        return dataclasses.replace(
            self, batch_seconds=self.batch_seconds * factor, row_seconds=self.row_seconds * factor
        )

    def shorter(self, one_row, full):
        """The line that lies lower by `one_row` seconds at one row and by `full` seconds at a full batch."""
        row = (full - one_row) / (self.max_rows - 1)
        batch = one_row - row
        return dataclasses.replace(
            self, batch_seconds=self.batch_seconds - batch, row_seconds=self.row_seconds - row
        )
