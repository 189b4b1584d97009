"""Images while stages before the LLM narrow them down."""

import torch

from learnpruner import ScorePruner, Stage
from learnpruner.core.selection import top_k_selection
from learnpruner.engine.image_layout import ImageLayout
from learnpruner.engine.vision_stages import ImageTokens


class FewOfTheLarger(ScorePruner):
    """Keeps the first two of six tokens, and the first three of four."""

    def forward(self, view, keep):
        order = torch.arange(view.tokens.shape[1], 0.0, -1).expand(view.tokens.shape[:2])
        return top_k_selection(order, torch.full((len(keep),), {6: 2, 4: 3}[view.tokens.shape[1]]))


def test_fillers_of_an_image_that_keeps_fewer_are_not_there_for_later_stages():
    layout = ImageLayout(
        [torch.ones(n, dtype=torch.bool) for n in (6, 4)], [torch.arange(6), torch.arange(6, 10)], (5, 2)
    )
    images = ImageTokens(torch.randn(2, 6, 8), layout, [[(2, 3)], [(2, 2)]])
    images.narrow(Stage(FewOfTheLarger(), "encoder"), [2, 3], {}, {})
    assert images.valid.sum(1).tolist() == images.kept[0].sum(1).tolist() == [2, 3]
    assert [mask.nonzero()[:, 0].tolist() for mask in images.kept[0]] == [[0, 1], [0, 1, 2]]
