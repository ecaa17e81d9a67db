"""A run from begin to end: its record, checkpoints, log, interruption and resumption."""
import dataclasses
import importlib.metadata
import platform
import shlex
import signal
import threading
from pathlib import Path

import torch
from tqdm import tqdm

from runs import files, manuscript
from runs.board import Board, require
from runs.device import choose_device, choose_precision, machine_name
from runs.options import Interrupted, UserError

OUTPUT = files.ROOT / "output"       # where runs without --out are made
# options that a resumed run may change; the folder of images and the mask only if they have moved
MAY_CHANGE = {"resume", "data", "mask", "n_epochs", "n_log", "n_plot", "n_stats", "tensorboard"}


def open_run(config, given, load):
    """Begin a run, or reopen the one that config.resume names -> Run.

    given  names of the options that were given
    load   config -> images (n, 3, S, S), their names, the fingerprint of their mask (a str)
    Raises UserError, before anything is written, if an option, an image or the folder is wrong.
    """
    resumed = "resume" in given
    if resumed:
        folder, config, record = _reopen(config, given)
    images, names, mask = load(config)
    if config.tensorboard:
        require()
    data = files.data_folder(config).absolute()
    paths = {"data": str(data)}                  # absolute: --resume works from any folder
    if mask and Path(config.mask).is_file():
        paths["mask"] = str(Path(config.mask).absolute())
    config = dataclasses.replace(config, **paths)
    if resumed:
        check_images(record, data, mask)
        return Run(folder, config, record, images, names)
    device = choose_device(config.device)
    hashes = files.hash_images(data)
    record = {"options": dataclasses.asdict(config), "device": device,
              "precision": choose_precision(config.precision, device),
              "threads": torch.get_num_threads(), "machine": machine_name(device), "images": hashes,
              "mask": mask, "versions": _versions()}
    run = Run(files.new_run_folder(config.out, record, OUTPUT), config, record, images, names)
    for part in ("options", "versions"):
        run.log(*(f"{name} = {value}" for name, value in record[part].items()))
    run.log(*(f"{name} = {record[name]}" for name in ("device", "precision", "threads", "machine")),
            *(f"image {name} sha256 {digest}" for name, digest in hashes.items()))
    return run


def _versions():
    versions = {"python": platform.python_version()}
    for name in manuscript.LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:      # only the evaluation needs it
            pass
    return versions | {"torch": torch.__version__}           # names its build, too: +cu132


def _reopen(config, given):
    folder = Path(config.resume)
    if not (folder / "config.json").is_file():
        raise UserError(f"--resume {folder}: is no run folder (it has no config.json); "
                        "name one such as output/001")
    record = files.read_json(folder / "config.json")
    if fixed := sorted(given - MAY_CHANGE):
        raise UserError(f"--{fixed[0]} cannot change in a resumed run; "
                        "leave it out or start a new run")
    try:
        old = type(config)(**record["options"])
        record["device"], record["precision"], record["images"], record["mask"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: is no record of this program ({error}); "
                        "start a new run") from None
    try:
        choose_device(record["device"])
    except UserError:
        raise UserError(f"--resume {folder}: began on {record['device']}, which is missing here; "
                        "continue it where it began or start a new run") from None
    new = {name: getattr(config, name) for name in given - {"resume"}}
    return folder, dataclasses.replace(old, **new), record


def check_images(record, data, mask):
    """Raise UserError if the images in a folder or the mask have changed since a run began."""
    old, new = record["images"], files.hash_images(data)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            what = "is gone" if name not in new else "is new" if name not in old else "has changed"
            raise UserError(f"{data}/{name}: {what} since the run began; "
                            "restore the images or start a new run")
    if record["mask"] != mask:
        raise UserError(f"--mask {record['options']['mask']}: hides other pixels than when the run "
                        "began; restore it or start a new run")


class Run:
    """A run folder, its record, and its training images (n, 3, S, S) with their names."""

    def __init__(self, folder, config, record, images, names):
        self.folder, self.config, self.record = folder, config, record
        self.images, self.names = images, names
        self.device, self.precision = record["device"], record["precision"]
        print(f"{folder}: {len(images)} images, {self.device}, {self.precision}")

    def log(self, *lines):
        """Add lines to log.txt."""
        path = self.folder / "log.txt"
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in lines)

    def update(self):
        """Rewrite config.json: options of a resumed run may have changed."""
        files.write_json(self.folder / "config.json",
                         self.record | {"options": dataclasses.asdict(self.config)})

    def train(self, model, draw):
        """Train a start from its last checkpoint to the last epoch; log, save and draw each epoch.

        model  an ABP model
        draw   called after each epoch as draw(model, folder) -> paths of pictures for TensorBoard
        Raises Interrupted after a signal, with the checkpoint saved.
        """
        config, folder = self.config, self.folder / model.start
        (folder / "epochs").mkdir(parents=True, exist_ok=True)
        path = folder / "checkpoint.pt"
        if path.exists():
            files.restore(model, path, MAY_CHANGE)
        else:
            files.save_model(model, path)  # so that a run killed in its first epochs resumes
        self.update()  # only now: the checkpoint is of this run
        files.write_csv(folder / "log.csv", model.history)   # drops rows after the checkpoint
        bar = tqdm(total=config.n_epochs, initial=model.epoch, unit="epoch", disable=None,
                   desc=f"{model.start} start")    # None: silent where the output is no terminal
        board = Board(folder, model.epoch, config.tensorboard)
        with bar, board, StopAfterEpoch() as stop:
            for row in model:
                files.append_csv(folder / "log.csv", row)
                board.add(row)
                bar.set_postfix(loss=f"{row['loss']:.1f}", psnr=f"{row['psnr']:.2f}", refresh=False)
                bar.update()
                board.add_pictures(draw(model, folder), model.epoch)
                due = model.epoch == config.n_epochs or model.epoch % config.n_log == 0
                if due or stop.requested:
                    files.save_model(model, path)  # after the pictures, so that a kill loses none
                    self.log(f"{model.start} " + " ".join(
                        f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}"
                        for k, v in row.items()))
                if stop.requested:
                    command = ["python", files.ROOT / "abp.py", "--resume", self.folder.resolve()]
                    raise Interrupted(f"stopped after epoch {model.epoch} of the {model.start} "
                                      f"start; continue with: {shlex.join(map(str, command))}")

    def finish(self, metrics, net):
        """Write the record and the tables of a finished run, and print what to open and run next.

        metrics  {"warm": dict, "cold": dict} or one of them;  net  a generator, for its layers
        """
        self.record["seconds"] = {start: m["seconds"] for start, m in metrics.items()}
        self.update()
        manuscript.write(self.folder, metrics, self.config, self.record, net)
        manuscript.point_report_to(self.folder, OUTPUT)
        first = self.folder / self.config.starts[0]
        print(f"open {first / 'interp.png'} and {first / 'explorer.html'}; "
              f"next: python -m evaluation {self.folder}")


class StopAfterEpoch:
    """Context in which Ctrl-C or SIGTERM sets `requested`; a second one stops at once.
    Outside the main thread, which alone receives signals, it has no effect."""

    def __enter__(self):
        self.requested, self.previous = False, {}
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._handle)
                             for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _handle(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        tqdm.write("stopping after this epoch; Ctrl-C again stops at once, at the last checkpoint")

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
