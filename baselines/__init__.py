"""Recommendation models behind one protocol, and what they share: data, losses, training, evaluation.

`MODELS` names them; nothing is imported until `load_model` is asked for one.
"""

import difflib
import importlib
from typing import Any

MODELS = {
    "poprec": "baselines.poprec:PopRec",
    "bpr": "baselines.bpr:BPR",
    "gru4rec": "baselines.gru4rec:GRU4Rec",
    "narm": "baselines.narm:NARM",
    "stamp": "baselines.stamp:STAMP",
    "caser": "baselines.caser:Caser",
    "sasrec": "baselines.sasrec:SASRec",
    "comirec": "baselines.comirec:ComiRec",
    "comirec-sa": "baselines.comirec:ComiRecSA",
    "bert4rec": "baselines.bert4rec:BERT4Rec",
    "s3rec": "baselines.s3rec:S3Rec",
    "esasrec": "baselines.esasrec:ESASRec",
    "bsarec": "baselines.bsarec:BSARec",
}


def load_model(name: str) -> Any:
    """The class of a model. Raises LookupError for an unknown name.

    >>> load_model("poprec")().name
    'poprec'
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise LookupError(f"unknown model {name!r}; known models: {', '.join(sorted(MODELS))}.{hint}")
    module, class_name = MODELS[name].split(":")
    return getattr(importlib.import_module(module), class_name)
