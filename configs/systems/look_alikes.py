"""Who looks like whom to a model in training: what batches of look-alikes are made of.

Letters: I identities, E embedding, K look-alikes of each.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from dataset.batch_plan import LookAlikePlan
from dataset.train_set import TrainLoader
from models.person_search import PersonSearchModel
from utils.device import Autocast
from utils.processes.distributed import from_main, is_main, sum_over_processes
from utils.training.epoch_log import Step

ROWS = 1024  # identities that are compared with all others at a time


def refresh_look_alikes(model: PersonSearchModel, loader: TrainLoader, step: Step, precision: Autocast) -> None:
    """Before an epoch whose batches are of look-alikes, on all processes: find who they are now.

    An epoch that is resumed goes on with those that its checkpoint holds.
    """
    plan = loader.plan
    if isinstance(plan, LookAlikePlan) and plan.group_in(step.epoch) and step.iteration == 0:
        plan.look_alikes = find_look_alikes(model, loader, plan, step.epoch, precision)


@torch.no_grad()
def find_look_alikes(
    model: PersonSearchModel, loader: TrainLoader, plan: LookAlikePlan, epoch: int, precision: Autocast
) -> Tensor:
    """For every identity of the training set those that resemble it, most alike first: int32 [I, K], on all processes.

    Told by stage 1, from the sum of the embeddings of a chance image of each and its caption: people are alike when
    the model takes the image or the caption of one for that of the other.
    """
    sums = torch.zeros(plan.identities, model.embedding_width, device=loader.device)
    requests = list(plan.one_of_each(epoch))
    training = model.training
    model.eval()
    for batch in tqdm(loader.read(requests), "look-alikes", len(requests), leave=False, disable=not is_main()):
        with precision():
            _, image = model.encode_image(batch.image1)
            text = model.embed_text(batch.caption)
        sums[batch.identity] = image.float() + text.float()
    model.train(training)
    return from_main(most_alike(sum_over_processes(sums), plan.look_alikes_of_each))


def most_alike(embeddings: Tensor, at_most: int) -> Tensor:
    """The nearest others of each row [I, E] by cosine about the mean, nearest first: int32 [I, K] in main memory."""
    centred = normalize(normalize(embeddings, dim=1) - normalize(embeddings, dim=1).mean(0), dim=1)
    count, found = min(at_most, len(centred) - 1), []
    for start in range(0, len(centred), ROWS):
        similarity = centred[start : start + ROWS] @ centred.T
        own = torch.arange(len(similarity), device=similarity.device)
        similarity[own, start + own] = -torch.inf
        found.append(similarity.topk(count).indices.int().cpu())
    return torch.cat(found)
