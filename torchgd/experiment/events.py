"""A run's events, as TensorBoard shows them. The only file that imports TensorBoard.

Each recorded step is one event with all of its values, whose tags are trajectory.csv's columns:
loss, weight/NAME, gradient/NAME; result/loss and result/NAME are result.json's numbers. TensorBoard
keeps single precision; a number beyond that is left out, and a text says so.
"""

import io
import json
import math
import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import custom_scalars, hparams, text

# What runs are compared by, and HParams shows, unless it is off; config.json tells of the rest.
HPARAMS = (
    "lr", "batch_size", "momentum", "dampening", "weight_decay", "nesterov", "maximize", "epochs",
    "update", "dtype", "device", "data", "model", "shuffle", "standardize", "bias", "compile",
)  # fmt: skip
COMPARED = ("lr", "update", "batch_size", "momentum")
EVENTS = re.compile(r"events\.out\.tfevents\.(\d{1,12})\.")
SINGLE = float(np.finfo(np.float32).max)


class Events:
    """An event file in `directory`, written through, so that what fails does so here and now.

    Of the events in files that are there already, TensorBoard shows those before `purge_step`.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, directory: Path, purge_step: int) -> None:
        # TensorBoard reads event files by name, and so by the second in it.
        there = map(EVENTS.match, os.listdir(directory))
        second = max([int(time.time()), *(int(name[1]) + 1 for name in there if name)])
        name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
        self.file = (directory / name).open("xb")
        self.records, self.purge_step = RecordWriter(self.file), purge_step
        self.said_beyond = False
        self._write(Event(file_version="brain.Event:2"))
        # TensorBoard takes the first session's start for no restart, so that one is written, too.
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())

    def _add(self, summary: Summary, step: int = 0) -> None:
        self._write(Event(step=step, summary=summary))

    def introduce(self, config: dict[str, Any], tags: Sequence[str], again: bool) -> None:
        """Tell of the configuration, the charts and the hyper-parameters, unless it is `again`."""
        # TensorBoard lays runs over each other where one chart's pattern fits their tags.
        curves = [tag for tag in tags if not tag.startswith("gradient/")]
        charts = {tag: ["Multiline", [f"^{re.escape(tag)}$"]] for tag in curves}
        # add_hparams would open a run directory of its own; its summaries fit into this one.
        scalars = {n: config[n] for n in HPARAMS if n in COMPARED or config.get(n)}
        finals = {f"result/{tag.removeprefix('weight/')}": 0.0 for tag in curves}
        experiment, start, self.session_end = hparams(scalars, finals)
        # HParams shows five, of which those come first that are said to differ, then by name.
        plugin = experiment.value[0].metadata.plugin_data
        described = HParamsPluginData.FromString(plugin.content)
        for info in described.experiment.hparam_infos:
            info.differs = info.name in COMPARED
        plugin.content = described.SerializeToString()
        if not again:
            shown = f"```json\n{json.dumps(config, indent=1)}\n```"
            self._add(text("config", shown), self.purge_step)
            for summary in (custom_scalars({"descent": charts}), experiment, start):
                self._add(summary)
        self.file.flush()

    def record(self, tags: Sequence[str], rows: Iterable[tuple[int, Sequence[Any]]]) -> None:
        """Add each step's values, those that are there."""
        for step, values in rows:
            there = [(t, v) for t, v in zip(tags, values, strict=True) if v is not None]
            beyond = [t for t, v in there if SINGLE < abs(v) < math.inf]
            event = [Summary.Value(tag=t, simple_value=v) for t, v in there if t not in beyond]
            self._add(Summary(value=event), step)
            if beyond and not self.said_beyond:
                self.said_beyond = True
                said = (
                    f"From step {step} on {', '.join(beyond)} is beyond single precision, which is "
                    "all that TensorBoard keeps; trajectory.csv has it."
                )
                self._add(text("beyond", said), step)
        self.file.flush()

    def finish(self, result: dict[str, Any]) -> None:
        """Add result.json's numbers, and the session's end for TensorBoard's HParams."""
        finals = {"loss": result["loss"], **result["parameters"]}
        self.record([f"result/{name}" for name in finals], [(result["steps"], [*finals.values()])])
        self._add(self.session_end)
        self.file.flush()

    def add_figures(self, figures: dict[str, Any], step: int) -> None:
        """Show matplotlib figures, by name, under TensorBoard's Images."""
        for name, figure in figures.items():
            png = io.BytesIO()
            figure.savefig(png, format="png")
            width, height = map(int, figure.canvas.get_width_height())
            image = Summary.Image(
                width=width, height=height, colorspace=4, encoded_image_string=png.getvalue()
            )
            # TensorBoard sorts by the tag, and what one came for, up to weight/…, is to come first.
            value = Summary.Value(tag=f"whole descent/{name}", image=image)
            self._add(Summary(value=[value]), step)
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()
