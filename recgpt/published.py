"""What the paper (arXiv 2404.08675) prints: Table 2 (HR@5, NDCG@5, HR@10, NDCG@10), Table 3 (HR@10, NDCG@10).

Columns are the data sets in the order of DATA_FILES. The text names Caser too, without figures.
"""

DATA_FILES = {
    "Sports": "Sports_and_Outdoors.txt",
    "Beauty": "Beauty.txt",
    "Toys": "Toys_and_Games.txt",
    "Yelp": "Yelp.txt",
}

PARTS = ("loss", "table2", "table3", "figure4", "figure5", "ablation", "comparison")
"""Of the paper as `recgpt paper` writes it again."""

_TABLE_2 = """
PopRec|.0052 .0028 .0081 .0037|.0064 .0030 .0098 .0040|.0039 .0021 .0070 .0031|.0045 .0023 .0091 .0038
BPR|.0030 .0019 .0055 .0027|.0038 .0026 .0060 .0033|.0030 .0019 .0047 .0024|.0023 .0015 .0039 .0021
STAMP|.0079 .0051 .0119 .0064|.0077 .0045 .0114 .0057|.0033 .0019 .0061 .0028|.0041 .0025 .0071 .0035
GRU4Rec|.0113 .0072 .0190 .0097|.0162 .0097 .0300 .0141|.0157 .0097 .0274 .0134|.0122 .0076 .0219 .0107
NARM|.0132 .0085 .0234 .0118|.0230 .0142 .0401 .0197|.0257 .0174 .0405 .0221|.0152 .0095 .0256 .0129
S3-Rec|.0124 .0086 .0205 .0111|.0202 .0119 .0336 .0163|.0227 .0146 .0397 .0200|.0159 .0094 .0269 .0129
BERT4Rec|.0200 .0130 .0313 .0166|.0382 .0210 .0592 .0319|.0455 .0307 .0683 .0380|.0156 .0096 .0262 .0130
SASRec|.0203 .0135 .0324 .0174|.0398 .0261 .0614 .0331|.0479 .0334 .0698 .0405|.0161 .0100 .0290 .0142
Pre-train|.0203 .0132 .0324 .0171|.0418 .0272 .0610 .0334|.0487 .0342 .0630 .0388|.0166 .0102 .0278 .0138
Fine-tuning|.0212 .0141 .0328 .0178|.0421 .0275 .0618 .0338|.0492 .0335 .0701 .0402|.0168 .0103 .0287 .0141
RecGPT_1|.0213 .0141 .0333 .0180|.0426 .0283 .0651 .0356|.0515 .0355 .0711 .0418|.0172 .0105 .0293 .0144
RecGPT|.0219 .0143 .0339 .0181|.0440 .0289 .0654 .0357|.0529 .0359 .0721 .0419|.0177 .0107 .0297 .0146
"""

_TABLE_3 = """
RecGPT|.0339 .0181|.0654 .0357|.0721 .0419|.0297 .0146
Variant 1|.0226 .0135|.0560 .0315|.0603 .0364|.0261 .0133
Variant 2|.0333 .0180|.0651 .0356|.0711 .0415|.0293 .0144
Variant 3|.0324 .0171|.0610 .0334|.0630 .0388|.0278 .0138
"""


def _rows(text: str, names: tuple[str, ...]) -> dict[tuple[str, str], dict[str, float]]:
    """{(data, row): {metric: value}} of a printed table."""
    found = {}
    for line in text.strip().splitlines():
        row, *columns = (part.strip() for part in line.split("|"))
        for data, column in zip(DATA_FILES, columns, strict=True):
            values = map(float, column.split())
            found[data, row] = dict(zip(names, values, strict=True))
    return found


TABLE_2 = _rows(_TABLE_2, ("hr@5", "ndcg@5", "hr@10", "ndcg@10"))
TABLE_3 = _rows(_TABLE_3, ("hr@10", "ndcg@10"))
