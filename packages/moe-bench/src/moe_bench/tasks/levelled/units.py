"""Units in levels: minutes between times, measures in several units, speeds."""

from __future__ import annotations

from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import PEOPLE, counted, listed

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_EVENTS = ("film", "meeting", "concert", "lesson", "match", "walk", "party")
_LONG = ("journey", "sale", "festival", "crossing", "trial", "watch", "repair")


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24}:{minutes % 60:02d}"


def _hours_and_minutes(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    parts = [counted(hours, "hours")] if hours else []
    return listed([*parts, *([counted(rest, "minutes")] if rest else [])])


def _in_minutes(minutes: int) -> list[str]:
    hours, rest = divmod(minutes, 60)
    if not hours:
        return []
    return [f"{hours} * 60 = {hours * 60}", *([f"{hours * 60} + {rest} = {minutes}"] if rest else [])]


def elapsed_minutes(rng: Random, level: int) -> Problem:
    """How many minutes something takes: of hours, between two times, in several parts, over nights."""
    event = rng.choice(_EVENTS if level < 4 else _LONG)
    if level == 1:
        total = 60 * rng.randint(1, 12) + rng.choice([0, rng.randint(1, 59)])
        ask = rng.choice(["How many minutes are {d}?", "A {e} lasts {d}. How many minutes is that?"])
        return Problem(
            prompt=ask.format(d=_hours_and_minutes(total), e=event),
            solution="\n".join(_in_minutes(total)),
            answer=str(total),
        )
    if level == 3:
        parts = [rng.randint(35, 190) for _ in range(3)]
        people = rng.sample(PEOPLE, 3)
        steps = [step for part in parts for step in _in_minutes(part)]
        steps.append(f"{' + '.join(map(str, parts))} = {sum(parts)}")
        told = listed([f"{p} works for {_hours_and_minutes(n)}" for p, n in zip(people, parts, strict=True)])
        return Problem(
            prompt=f"{told}. How many minutes do they work altogether?",
            solution="\n".join(steps),
            answer=str(sum(parts)),
        )
    days = {2: 0, 4: 1, 5: rng.randint(2, 5)}[level]
    begin = rng.randint(6 * 60, 12 * 60) if level == 2 else rng.randint(12 * 60, 23 * 60)
    end = begin + rng.randint(70, 400) if level == 2 else rng.randint(5 * 60, 11 * 60)
    total = days * 1440 + end - begin
    if level == 2:
        full, rest = divmod(total, 60)
        steps = [f"From {_clock(begin)} to {_clock(begin + full * 60)}: {full} * 60 = {full * 60}"]
        if rest:
            steps.append(f"From {_clock(begin + full * 60)} to {_clock(end)}: {rest}")
            steps.append(f"{full * 60} + {rest} = {total}")
        where = ("", "")
    else:
        first, last = 1440 - begin, end
        steps = [f"Until midnight: 24 * 60 - {begin // 60} * 60 - {begin % 60} = {first}"]
        if days > 1:
            steps.append(f"{counted(days - 1, 'whole days')}: {days - 1} * 24 * 60 = {(days - 1) * 1440}")
        steps.append(f"After midnight: {end // 60} * 60 + {end % 60} = {last}")
        middle = f" + {(days - 1) * 1440}" if days > 1 else ""
        steps.append(f"{first}{middle} + {last} = {total}")
        day = rng.randrange(7 - days)
        where = (f" on {_DAYS[day]}", " the next day" if days == 1 else f" on {_DAYS[day + days]} of the same week")
    pause = 0
    if level == 4:
        pause = rng.randint(10, 55)
        steps.append(f"{total} - {pause} = {total - pause}")
    told = f"A {event} begins at {_clock(begin)}{where[0]} and ends at {_clock(end)}{where[1]}"
    if pause:
        prompt = f"{told}, with a break of {pause} minutes. How many minutes does it last without the break?"
    else:
        prompt = f"{told}. How many minutes does it last?"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=str(total - pause))


_MEASURES = (
    (("m", "cm", 100), ("cm", "mm", 10), "rope"),
    (("km", "m", 1000), ("m", "cm", 100), "path"),
    (("kg", "g", 1000), ("t", "kg", 1000), "sand"),
    (("litres", "ml", 1000), ("litres", "cl", 100), "juice"),
)
_WHOLE = {"rope": "a rope of", "path": "a path of", "sand": "a heap of sand of", "juice": "a can of juice of"}
_PIECE = {"rope": "pieces of", "path": "sections of", "sand": "bags of", "juice": "glasses of"}


def measure_total(rng: Random, level: int) -> Problem:
    """How much there is in the smaller unit: of one measure, of sums in different units, of what is left after parts are taken."""
    first, second, thing = rng.choice(_MEASURES)
    big, small, factor = first if level > 1 else rng.choice([first, second])
    person = rng.choice(PEOPLE)
    whole, rest = rng.randint(2, 9 if level > 1 else 99), rng.randint(5, factor - 1)
    steps = [f"{whole} * {factor} = {whole * factor}"]
    if level == 1:
        ask = rng.choice(["How many {s} are {n} {b}?", "Convert {n} {b} to {s}.", "Write {n} {b} in {s}."])
        prompt = ask.format(s=small, b=big, n=whole)
        return Problem(prompt=prompt, solution=steps[0], answer=str(whole * factor))
    total = whole * factor + rest
    steps.append(f"{whole * factor} + {rest} = {total}")
    told = f"{person} has {_WHOLE[thing]} {whole} {big} and {rest} {small}"
    if level == 2:
        return Problem(prompt=f"{told}. How many {small} is that?", solution="\n".join(steps), answer=str(total))
    if level in (3, 5):
        more = rng.randint(2, 9)
        steps += [f"{more} * {factor} = {more * factor}", f"{total} + {more * factor} = {total + more * factor}"]
        total += more * factor
        told += f", and another of {more} {big}"
        if level == 3:
            return Problem(
                prompt=f"{told}. How many {small} is that altogether?", solution="\n".join(steps), answer=str(total)
            )
    count = rng.randint(3, 9)
    size = rng.randint(2, max(3, min(total // count - 1, factor - 1)))
    used = f"{count} {_PIECE[thing]} {size} {small} each"
    steps += [f"{count} * {size} = {count * size}", f"{total} - {count * size} = {total - count * size}"]
    total -= count * size
    if level == 5:  # a share of what is left, in the big unit and a decimal fraction of it
        tenths = rng.randint(1, max(1, min(9, (total - 1) * 10 // factor)))
        steps += [
            f"0.{tenths} * {factor} = {tenths * factor // 10}",
            f"{total} - {tenths * factor // 10} = {total - tenths * factor // 10}",
        ]
        total -= tenths * factor // 10
        used += f" and then 0.{tenths} {big}"
    return Problem(
        prompt=f"{told}. {person} takes off {used}. How many {small} are left?",
        solution="\n".join(steps),
        answer=str(total),
    )


def speed_distance(rng: Random, level: int) -> Problem:
    """Distance, time or speed; minutes from level 3, two legs from level 4, their average at level 5."""
    person = rng.choice(PEOPLE)
    verb = rng.choice(["drives", "travels", "rides"])
    speed = rng.randint(5, 90)
    if level == 1:
        hours = rng.randint(2, 9)
        return Problem(
            prompt=f"{person} {verb} {hours} hours at {speed} km per hour. How many km is that?",
            solution=f"{hours} * {speed} = {hours * speed}",
            answer=str(hours * speed),
        )
    if level == 2:
        hours = rng.randint(2, 12)
        return Problem(
            prompt=f"{person} {verb} {hours * speed} km at {speed} km per hour. How many hours does that take?",
            solution=f"{hours * speed} / {speed} = {hours}",
            answer=str(hours),
        )
    if level == 3:
        speed, minutes = 12 * rng.randint(1, 10), 5 * rng.choice([n for n in range(2, 30) if n % 12])
        distance = speed * minutes // 60
        return Problem(
            prompt=f"{person} {verb} at {speed} km per hour for {minutes} minutes. How many km is that?",
            solution=f"{speed} * {minutes} = {speed * minutes}\n{speed * minutes} / 60 = {distance}",
            answer=str(distance),
        )
    if level == 4:
        hours, speed_2, minutes = (
            rng.randint(2, 5),
            12 * rng.randint(1, 8),
            5 * rng.choice([n for n in range(2, 24) if n % 12]),
        )
        first, second = hours * speed, speed_2 * minutes // 60
        steps = [
            f"{hours} * {speed} = {first}",
            f"{speed_2} * {minutes} = {speed_2 * minutes}",
            f"{speed_2 * minutes} / 60 = {second}",
            f"{first} + {second} = {first + second}",
        ]
        prompt = (
            f"{person} {verb} {hours} hours at {speed} km per hour and then {minutes} minutes at {speed_2} km per hour. "
            "How many km is that in all?"
        )
        return Problem(prompt=prompt, solution="\n".join(steps), answer=str(first + second))
    while True:
        one, two, hours, hours_2 = rng.randint(10, 90), rng.randint(10, 90), rng.randint(1, 6), rng.randint(1, 6)
        distance = one * hours + two * hours_2
        if one != two and distance % (hours + hours_2) == 0:
            break
    steps = [
        f"{one * hours} / {one} = {hours}",
        f"{two} * {hours_2} = {two * hours_2}",
        f"{one * hours} + {two * hours_2} = {distance}",
        f"{hours} + {hours_2} = {hours + hours_2}",
        f"{distance} / {hours + hours_2} = {distance // (hours + hours_2)}",
    ]
    prompt = (
        f"{person} {verb} {one * hours} km at {one} km per hour and then {counted(hours_2, 'hours')} at {two} km per hour. "
        "What is the average speed of the whole way, in km per hour?"
    )
    return Problem(prompt=prompt, solution="\n".join(steps), answer=str(distance // (hours + hours_2)))


FAMILIES = (
    LevelledFamily(
        name="elapsed_minutes",
        operation="units",
        description="how many minutes something takes",
        answer_kind="number",
        levels=(
            "hours and minutes",
            "between two times",
            "three durations together",
            "over midnight, less a break",
            "over several days",
        ),
        generate=elapsed_minutes,
    ),
    LevelledFamily(
        name="measure_total",
        operation="units",
        description="how much there is, in the smaller unit",
        answer_kind="number",
        levels=("one measure", "two units", "a sum", "parts taken off", "a sum, parts taken off, a decimal fraction"),
        generate=measure_total,
    ),
    LevelledFamily(
        name="speed_distance",
        operation="units",
        description="distance, time and speed",
        answer_kind="number",
        levels=("distance", "time", "distance in minutes", "two legs", "average of two legs"),
        generate=speed_distance,
    ),
)
