"""Training and held-out records that have captions."""

from dalle_base.data.sources.base import Source, Subset, any_readable, captioned, first_readable


def captioned_pair(train: Source, held_out: Source) -> tuple[Source, Source]:
    """Return the records of both that have a caption (see `captioned`).

    Where both are parts of one source and only one of them has captions, it lends the other one.
    What is held out does not depend on this otherwise.

    Raises:
        UserError: none has a caption.
    """
    if not (isinstance(train, Subset) and isinstance(held_out, Subset)):
        return captioned(train), captioned(held_out)
    if train.source is not held_out.source:
        return captioned(train), captioned(held_out)
    every = sorted({*train.indices, *held_out.indices})
    known = captioned(Subset(train.source, every))
    if len(known) == len(every):
        return train, held_out
    has = {index for index in every if train.source.has_caption(index)}
    kept, measured = ([i for i in part.indices if i in has] for part in (train, held_out))
    if not any_readable(train.source, measured):
        measured = first_readable(train.source, sorted({*kept, *measured}))
        kept = [index for index in kept if index not in measured] or measured
    elif not kept:
        measured, kept = measured[1:] or measured, measured[:1]
    return Subset(train.source, kept), Subset(train.source, measured)
