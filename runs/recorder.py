"""A run folder from begin to end: the record of its options, checkpoints, logs, interruption, resumption."""
import dataclasses
import importlib.metadata
import platform
import signal
from pathlib import Path

import torch
from tqdm import tqdm

import utils
from explorer import movies
from explorer.page import write_explorer
from inference.masks import fingerprint, make_mask
from runs import manuscript
from runs.board import Board, require
from runs.device import machine_name
from runs.files import (
    hash_images,
    load_checkpoint,
    new_run_folder,
    read_json,
    save_checkpoint,
    write_json,
    write_table,
)
from runs.options import Interrupted, UserError
from utils import plot_stats

# what a resumed run may be given; folder of images and mask, should they have moved: they must be the same
MAY_CHANGE = {"resume", "data", "mask", "n_epochs", "n_log", "n_plot", "n_stats", "tensorboard"}


# ------------------------------------------------------------------------------------------- the run's record

def begin(config, data, device, precision, parent):
    """Make the folder of a new run with its config.json. Returns its path and the record."""
    if config.tensorboard:
        require()                        # before there is a folder
    hashes = hash_images(data)
    record = {"options": dataclasses.asdict(config), "device": str(device), "precision": precision,
              "threads": torch.get_num_threads(), "machine": machine_name(device), "images": hashes,
              "mask": _mask_hash(config, len(hashes)), "versions": _versions()}
    folder = new_run_folder(config.out, record, parent)
    lines = [f"{name} = {value}" for part in ("options", "versions") for name, value in record[part].items()]
    log(folder, *lines, f"device = {device}, precision = {precision}, threads = {record['threads']}",
        f"machine = {record['machine']}",
        *[f"image {name} sha256 {digest}" for name, digest in record["images"].items()])
    return folder, record


def _versions():
    versions = {"python": platform.python_version()}
    for name in manuscript.LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:      # training does not need what evaluate.py does
            pass
    return versions | {"torch": torch.__version__}           # which also names its build, +cu132 say


def reopen(config, given):
    """The folder, configuration and record of the run that --resume names, with the options given anew.

    Raises UserError if it is no run folder, or if an option was given that a resumed run cannot change.
    """
    folder = Path(config.resume)
    if not (folder / "config.json").is_file():
        raise UserError(f"--resume {folder}: is no run folder (it has no config.json); "
                        "name one such as output/001")
    record = read_json(folder / "config.json")
    if fixed := sorted(given - MAY_CHANGE):
        raise UserError(f"--{fixed[0]} cannot change in a resumed run; leave it out or start a new run")
    try:
        old = type(config)(**record["options"])
        record["device"], record["precision"], record["images"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: is no record of this program ({error}); "
                        "start a new run") from None
    return folder, dataclasses.replace(old, **{k: getattr(config, k) for k in given - {"resume"}}), record


def update_record(folder, record, config):
    """Write config.json anew: the options may have changed, --n_epochs say."""
    write_json(folder / "config.json", record | {"options": dataclasses.asdict(config)})


def _mask_hash(config, n):
    return fingerprint(make_mask(config.mask, n, config.img_size, config.seed))


def same_images(record, config, data):
    """Raise UserError unless a folder still holds the images the run began with, and its mask."""
    old, new = record["images"], hash_images(data)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            change = "is gone" if name not in new else "is new" if name not in old else "has changed"
            raise UserError(f"{data}/{name}: {change} since the run began; "
                            "restore the images or start a new run")
    if record.get("mask", "") != _mask_hash(config, len(old)):       # records from before masks have none
        raise UserError(f"--mask {config.mask}: hides other pixels than when the run began; "
                        "restore it or start a new run")


def same_run(checkpoint, config, names, path):
    """Raise UserError unless a checkpoint read from `path` is of this configuration and these images."""
    theirs, ours = checkpoint["config"], dataclasses.asdict(config)
    differs = [k for k in ours if k not in MAY_CHANGE and theirs.get(k) != ours[k]]
    if differs or checkpoint["image_names"] != names:
        what = f"--{differs[0]}" if differs else "the images"
        raise UserError(f"{path}: was made with another configuration ({what}); put the right file back or "
                        "delete it, and --resume")
    if checkpoint["epoch"] > config.n_epochs:
        raise UserError(f"--n_epochs must be at least {checkpoint['epoch']}, the epochs already done")


def finish(folder, record, config, metrics, histories, parent, net):
    """All that belongs to the whole of a run, now that its starts are done: figures, tables, its times.

    metrics, histories  {"warm": ..., "cold": ...} or one of the two; parent as of `point_report_to`
    """
    utils.write_run(folder, metrics, histories, config)
    manuscript.write(folder, metrics, config, record, net)
    record["seconds"] = {start: m["seconds"] for start, m in metrics.items()}
    update_record(folder, record, config)
    manuscript.point_report_to(folder, parent)


def log(folder, *lines):
    with open(folder / "log.txt", "a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(f"{line}\n" for line in lines)


# -------------------------------------------------------------------------------------------------- one start

class Recorder:
    """All of a start's training that is not the algorithm: restores it, logs each epoch, saves, draws."""

    def __init__(self, model, folder):
        self.model, self.config, self.folder = model, model.config, folder
        (folder / "epochs").mkdir(parents=True, exist_ok=True)
        path = folder / "checkpoint.pt"
        if path.exists():
            checkpoint = load_checkpoint(path)
            same_run(checkpoint, model.config, model.names, path)
            model.restore(checkpoint, path)
        else:
            self.save()                                  # so that a run killed in its first epochs resumes
        write_table(folder / "log.csv", model.history)   # rows later than the checkpoint will come again

    def save(self):
        save_checkpoint(self.folder / "checkpoint.pt", self.model.state())

    def train(self):
        """Train to the last epoch. Raises Interrupted after a signal, with the checkpoint saved."""
        config, model = self.config, self.model
        bar = tqdm(total=config.n_epochs, initial=model.epoch, unit="epoch", disable=None,
                   desc=f"{model.start} start")             # None: silent when the output is no terminal
        with bar, Board(self.folder, model.epoch, config.tensorboard) as board, StopAfterEpoch() as stop:
            for row in model.train():
                epoch = row["epoch"]
                self._append(row)
                board.add(row)
                bar.set_postfix(loss=f"{row['loss']:.1f}", psnr=f"{row['psnr']:.2f}", refresh=False)
                bar.update()
                last = epoch == config.n_epochs
                if last or movies.is_frame(epoch):
                    movies.save_frame(model.net, config, self.folder / "frames", epoch)
                if not last and epoch % config.n_plot == 0:
                    utils.draw_snapshot(model.net, model.z, model.images, config, self.folder / "epochs",
                                          epoch, model.mask)
                    board.add_pictures(sorted((self.folder / "epochs").glob(f"{epoch:04d}_*.png")), epoch)
                if not last and epoch % config.n_stats == 0:
                    plot_stats({model.start: model.history}, [self.folder / "loss.png"])
                if last or stop.requested or epoch % config.n_log == 0:
                    self.save()              # after the pictures, so that a kill between cannot lose one
                    log(self.folder.parent,
                        f"{model.start} " + " ".join(_short(k, v) for k, v in row.items()))
                if stop.requested:
                    raise Interrupted(f"stopped after epoch {epoch} of the {model.start} start; go on with: "
                                      f"python abp.py --resume {self.folder.parent}")

    def finish(self):
        """Draw every figure, moving and still, and measure; returns the metrics."""
        model = self.model
        write_explorer(model.net, model.z, model.images, self.config, self.folder / "explorer.html")
        movies.write_walk(model.net, model.z, self.folder / "walk.webp")
        movies.write_training(self.folder / "frames", self.config.n_epochs, self.folder / "training.webp")
        return utils.write_start(model.net, model.z, model.images, model.history, self.config, self.folder,
                                   model.mask)

    def _append(self, row):
        if row["epoch"] == 1:
            write_table(self.folder / "log.csv", [row])
            return
        with open(self.folder / "log.csv", "a", encoding="utf-8") as file:
            file.write(",".join(str(v) for v in row.values()) + "\n")


def _short(key, value):
    return f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}"


class StopAfterEpoch:
    """Within it, Ctrl-C and SIGTERM ask for a stop at the end of the epoch; a second one stops at once."""

    def __enter__(self):
        self.requested = False
        self.previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _handle(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        tqdm.write("stopping after this epoch; once more to stop now and go back to the last checkpoint")

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
