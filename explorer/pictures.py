"""The pictures of one start, still and moving: those due after an epoch, and all of them at the end."""
import utils
from explorer import movies
from explorer.page import write_explorer


def draw_epoch(model, folder):
    """Draw what is due after an epoch -> the paths of a snapshot's pictures, empty without one."""
    config, epoch = model.config, model.epoch
    last, quarter = epoch == config.n_epochs, max(1, config.n_epochs // 4)
    if last or movies.is_frame(epoch):
        movies.save_frame(model.net, config, folder / "frames", epoch)
    if not last and epoch % (config.n_stats or quarter) == 0:
        utils.plot_stats({model.start: model.history}, [folder / "loss.png"])
    if not last and epoch % (config.n_plot or quarter) == 0:
        return utils.draw_snapshot(model, folder / "epochs")
    return []


def draw_start(model, folder):
    """Draw everything of a finished start -> its metrics, which metrics.json holds too."""
    write_explorer(model.net, model.z, model.images, model.config, folder / "explorer.html")
    movies.write_walk(model.net, model.z, folder / "walk.webp")
    movies.write_training(folder / "frames", model.config.n_epochs, folder / "training.webp")
    return utils.write_start(model, folder)
