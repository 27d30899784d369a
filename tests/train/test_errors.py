from train.errors import unknown_name


def test_an_unknown_name_is_answered_with_the_nearest_known_one():
    assert unknown_name("recipe", "compct", ["four_conv", "compact"]) == (
        "unknown recipe 'compct': did you mean 'compact'? Known: compact, four_conv"
    )


def test_an_unknown_name_is_answered_even_if_nothing_resembles_it():
    assert "Known: a, b" in unknown_name("recipe", "zzz", ["a", "b"])


def test_an_unknown_name_among_none_says_so():
    assert unknown_name("argument", "dropout", []) == "unknown argument 'dropout': there are none"
