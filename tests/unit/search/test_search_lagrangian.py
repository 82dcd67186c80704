from lissom.search.lagrangian import Problem, fill, solve


def additive(harms, costs, *limits: float) -> Problem:
    """Costs per item and option, one number or one per limit."""
    rows = [[c if isinstance(c, tuple) else (c,) for c in item] for item in costs]

    def price(choice):
        taken = [row[option] for row, option in zip(rows, choice, strict=True)]
        return tuple(sum(column) for column in zip(*taken, strict=True))

    return Problem(harms, price, limits)


def test_what_fits_as_it_is_stays():
    assert solve(additive([(0, 1), (0, 1)], [(5, 1), (5, 1)], 10)) == (0, 0)


def test_the_least_harm_per_cost_goes_first():
    problem = additive([(0, 1.0), (0, 5.0), (0, 2.0)], [(10, 5)] * 3, 20)
    assert solve(problem) == (1, 0, 1)


def test_none_when_nothing_fits():
    assert solve(additive([(0, 1), (0, 1)], [(5, 3), (5, 3)], 5)) is None
    assert solve(Problem([], lambda _choice: (2.0,), (1.0,))) is None


def test_what_is_broken_is_no_answer():
    infinite = float("inf")
    assert solve(additive([(0, 1.0), (0, infinite)], [(5, 3), (5, 1)], 5)) is None
    assert solve(additive([(0, 1.0), (0, infinite)], [(5, 3), (5, 1)], 8)) == (1, 0)


def test_two_limits_bind_at_once():
    # The first item saves mostly the first quantity, the second item the other.
    harms = [(0, 1.0, 3.0), (0, 1.0, 3.0)]
    costs = [[(10, 10), (4, 9), (1, 8)], [(10, 10), (9, 4), (8, 1)]]
    choice = solve(additive(harms, costs, 14, 14))
    assert choice == (1, 1)
    assert solve(additive(harms, costs, 14, 100)) == (1, 0)
    assert solve(additive(harms, costs, 100, 14)) == (0, 1)


def test_two_limits_that_only_unequal_weights_meet():
    # Equal weights choose the option that saves most in total, which breaks the second limit.
    problem = additive([(0, 1.0, 1.0)], [[(10, 10), (1, 9), (6, 5)]], 6, 5)
    assert solve(problem) == (2,)


def test_prices_that_do_not_add():
    def price(choice):  # width of two layers, and the product between them
        first, second = ((8, 4, 2)[option] for option in choice)
        return (first + first * second + second,)

    problem = Problem([(0, 1.0, 4.0), (0, 1.5, 9.0)], price, (25,))
    assert solve(problem) == (1, 1)
    assert solve(Problem(problem.harms, price, (8,))) == (2, 2)
    assert solve(Problem(problem.harms, price, (7,))) is None


def test_savings_that_only_show_together_are_found():
    # Alone, neither item saves anything: prices around the untouched network see no way.
    problem = Problem([(0, 1.0), (0, 1.0)], lambda c: (0 if c == (1, 1) else 9,), (5,))
    assert solve(problem) == (1, 1)


def test_fill_spends_what_is_left_on_the_largest_gain_that_fits():
    problem = additive([(0, 1.0, 4.0), (0, 2.0, 3.0)], [(10, 5, 1), (10, 5, 1)], 12)
    assert fill(problem, (2, 2)) == (0, 2)
    assert problem.harm(fill(problem, (2, 2))) < problem.harm((2, 2))


def test_fill_leaves_a_full_choice_alone():
    problem = additive([(0, 1.0), (0, 2.0)], [(10, 5), (10, 5)], 15)
    assert fill(problem, (1, 0)) == (1, 0)
