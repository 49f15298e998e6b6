"""Log-probs of completions, for any version of transformers."""
import torch


def forget(model):
    """A rotation of type dynamic keeps the longest length that it saw; each sequence is to have its own."""
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            module.inv_freq, module.max_seq_len_cached = module.original_inv_freq, module.original_max_seq_len


@torch.no_grad()
def logits(model, ids):
    forget(model)
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def completion_logp(model, prompt_ids, completion_ids):
    """Σ log p(token | everything before it) over the completion; the model in f32, the soft-max and the sum in f64."""
    ids = prompt_ids + completion_ids
    logps = torch.log_softmax(logits(model, ids)[:-1].double(), dim=-1)
    targets = torch.tensor(ids[1:])[:, None]
    return logps.gather(1, targets)[len(prompt_ids) - 1 :].sum().item()


def score(model, record):
    result = {}
    for side in ("chosen", "rejected"):
        ids = record[f"{side}_ids"]
        result[f"{side}_logp"] = completion_logp(model, record["prompt_ids"], ids)
        result[f"{side}_tokens"] = len(ids)
    return result
