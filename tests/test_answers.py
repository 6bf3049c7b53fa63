import numpy as np
import pytest
import torch

from crescendo.answers import GatheredAnswers, read_answers, write_answers
from crescendo.errors import UserError

LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]]))


def gathered():
    """Three images, in the order in which two devices might give them."""
    metric = GatheredAnswers()
    metric.update(LOGITS[[0, 2]], torch.tensor([0, 1]), torch.tensor([0, 2]))
    metric.update(LOGITS[[1]], torch.tensor([2]), torch.tensor([1]))
    return metric.compute()


def test_answers_are_sorted_by_image():
    answers = gathered()
    assert answers.indices.tolist() == [0, 1, 2]
    assert answers.labels.tolist() == [0, 2, 1]
    assert answers.answers.tolist() == [0, 2, 0]
    assert answers.wrong.tolist() == [False, False, True]
    assert answers.probabilities == pytest.approx([0.5, 0.7, 0.8])
    assert answers.label_probabilities == pytest.approx([0.5, 0.7, 0.1])


def test_answers_read_back(tmp_path):
    assert read_answers(tmp_path) is None
    write_answers(tmp_path, gathered())
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "index,label,answer,probability,label_probability"
    assert lines[3] == "2,1,0,0.8,0.1"
    for mine, theirs in zip(read_answers(tmp_path), gathered(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "index,label\n1,2\n",
        "index,label,answer,probability,label_probability\n1,2\n",
        "index,label,answer,probability,label_probability\n1,2,a,1,1\n",
    ],
)
def test_something_else_is_refused(tmp_path, content):
    (tmp_path / "predictions.csv").write_text(content)
    with pytest.raises(UserError, match=r"predictions\.csv cannot be read"):
        read_answers(tmp_path)
