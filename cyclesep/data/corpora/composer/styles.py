"""Musical styles: tempi, modes, drum grooves, bass lines, ensembles.

Patterns have one character per sixteenth note. In grooves and figures, a digit is a note with its loudness (9 is full).
In bass lines, a letter is a note: (r)oot, (t)hird, (f)ifth, (o)ctave, (a)pproach to the next bar's root. `-` holds the
previous note, `.` is a rest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Semitones above the tonic.
MODES: Mapping[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
}

# Degrees of the scale (0 is the tonic), one chord per bar.
PROGRESSIONS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "major": ((0, 4, 5, 3), (0, 3, 0, 4), (5, 3, 0, 4), (0, 5, 1, 4), (3, 0, 4, 5), (0, 2, 3, 3)),
    "minor": ((0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 5, 4), (0, 2, 6, 3), (5, 6, 0, 0)),
    "dorian": ((0, 3, 0, 3), (0, 6, 3, 0), (0, 1, 2, 3)),
    "mixolydian": ((0, 6, 3, 0), (0, 0, 6, 3), (0, 4, 6, 3)),
    "harmonic minor": ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 0, 4)),
}

Groove = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Style:
    """Parameters of a style. The patterns have `steps_per_bar` characters."""

    tempo_bpm: tuple[float, float]
    swing: tuple[float, float]
    """Range of the delay of every second sixteenth note, as a fraction of a sixteenth."""
    modes: tuple[str, ...]
    grooves: tuple[Groove, ...]
    bass_lines: tuple[str, ...]
    basses: tuple[str, ...]
    ensembles: tuple[tuple[str, ...], ...]
    """Sets of parts of the stem `other` (see harmony.PARTS), the leading part first."""
    steps_per_bar: int = 16


def parse_pattern(pattern: str) -> Iterator[tuple[int, int, str]]:
    """Yield the notes of a pattern as (step, length in steps, symbol)."""
    for step, symbol in enumerate(pattern):
        if symbol not in ".-":
            held = len(pattern) - step - 1
            rest = pattern[step + 1 :]
            yield step, 1 + held - len(rest.lstrip("-")), symbol


STYLES: Mapping[str, Style] = {
    "rock": Style(
        tempo_bpm=(108, 156),
        swing=(0.0, 0.03),
        modes=("major", "minor", "mixolydian"),
        grooves=(
            {"kick": "9.....7.9.8.....", "snare": "....9.......9...", "hat": "8.6.8.6.8.6.8.6."},
            {
                "kick": "9..8....8.9.....",
                "snare": "....9..3....9..4",
                "hat": "9.5.9.5.9.5.9...",
                "open_hat": "..............6.",
            },
            {"kick": "9.8...8.9.8...8.", "snare": "....9.......9...", "ride": "8.6.8.6.8.6.8.6."},
        ),
        bass_lines=("r-r-r-r-r-r-r-r-", "r-r-r-r-r-r-f-a-", "r-..r-r-o-r-f-a-"),
        basses=("picked", "fingered"),
        ensembles=(
            ("crunch", "organ"),
            ("crunch", "crunch_high"),
            ("clean_guitar", "crunch"),
            ("crunch", "lead_synth"),
        ),
    ),
    "pop": Style(
        tempo_bpm=(94, 128),
        swing=(0.0, 0.04),
        modes=("major", "major", "minor"),
        grooves=(
            {"kick": "9.......9.......", "snare": "....9.......9...", "hat": "7474747474747474"},
            {
                "kick": "9..7..8...8.....",
                "snare": "....9.......9...",
                "hat": "8.5.8.5.8.5.8.5.",
                "shaker": "..5...5...5...5.",
            },
            {"kick": "9...8...9...8...", "clap": "....9.......9...", "shaker": "7353735373537353"},
        ),
        bass_lines=("r---r-r-r---r-f-", "r--r--o-r--r--a-", "r-------f-----a-"),
        basses=("fingered", "synth"),
        ensembles=(
            ("piano", "pad"),
            ("clean_guitar", "bells", "pad"),
            ("electric_piano", "strings"),
            ("piano", "clean_guitar"),
        ),
    ),
    "funk": Style(
        tempo_bpm=(92, 114),
        swing=(0.04, 0.18),
        modes=("dorian", "mixolydian"),
        grooves=(
            {"kick": "9..7......8..6..", "snare": "....9..3.3..9..3", "hat": "8464846484648464"},
            {
                "kick": "9.8....6..9....7",
                "snare": "....9..4....9.4.",
                "hat": "9.649.649.649.6.",
                "open_hat": "..............7.",
            },
        ),
        bass_lines=("r-.ro.r-.rf.ro.a", "r--.ro..r-.r.fa-", "r.r.o-.rf.r.o-a."),
        basses=("slapped", "fingered"),
        ensembles=(
            ("electric_piano", "brass"),
            ("clavinet", "brass"),
            ("clavinet", "organ"),
            ("electric_piano", "clavinet"),
        ),
    ),
    "ballad": Style(
        tempo_bpm=(60, 82),
        swing=(0.0, 0.02),
        modes=("major", "minor", "harmonic minor"),
        grooves=(
            {"kick": "9.........7.....", "snare": "........9.......", "hat": "7...5...7...5..."},
            {"kick": "9.....6.........", "rim": "........8.......", "shaker": "6.3.6.3.6.3.6.3."},
            {"kick": "9.......7.......", "snare": "....8.......8...", "ride": "7...5...7...5..."},
        ),
        bass_lines=("r-------f-------", "r---------f---a-", "r-----r-f-----t-"),
        basses=("fingered", "upright"),
        ensembles=(("piano", "strings"), ("electric_piano", "pad"), ("acoustic_guitar", "cello"), ("piano", "flute")),
    ),
    "house": Style(
        tempo_bpm=(118, 130),
        swing=(0.0, 0.08),
        modes=("minor", "dorian"),
        grooves=(
            {"kick": "9...9...9...9...", "open_hat": "..8...8...8...8.", "clap": "....8.......8..."},
            {"kick": "9...9...9...9...", "hat": "7464746474647464", "clap": "....9.......9..."},
            {"kick": "9...9...9..69...", "hat": "..7...7...7...7.", "rim": "...6..6....6..6."},
        ),
        bass_lines=("..r-..r-..r-..r-", "r.orr.orr.orr.oa", "r--r--r-..r-f-o-"),
        basses=("synth", "digital"),
        ensembles=(("stabs", "pad"), ("arpeggio_synth", "pad"), ("stabs", "arpeggio_synth"), ("piano", "lead_synth")),
    ),
    "hip-hop": Style(
        tempo_bpm=(76, 98),
        swing=(0.08, 0.22),
        modes=("minor", "dorian", "harmonic minor"),
        grooves=(
            {"kick": "9..6......8.....", "snare": "....9.......9...", "hat": "8.648.6.8.648.64"},
            {"kick": "9.....7.....8.6.", "clap": "....9.......9...", "hat": "8666846866668464"},
        ),
        bass_lines=("r-----r---f-----", "r--.r-.....o--a-", "r---------r-.f--"),
        basses=("sub", "upright"),
        ensembles=(("electric_piano", "bells"), ("piano", "strings"), ("pad", "flute"), ("bells", "brass")),
    ),
    "folk": Style(
        tempo_bpm=(84, 122),
        swing=(0.0, 0.05),
        modes=("major", "mixolydian", "dorian"),
        grooves=(
            {"kick": "9.......8.......", "shaker": "7.4.8.4.7.4.8.4."},
            {"kick": "9...7...9...7...", "rim": "....7.......7...", "shaker": "6353635363536353"},
        ),
        bass_lines=("r---f---r---f---", "r-------f-----a-", "r---t---f---a---"),
        basses=("upright", "fingered"),
        ensembles=(
            ("acoustic_guitar", "violin"),
            ("acoustic_guitar", "flute"),
            ("acoustic_guitar", "clarinet"),
            ("picked_guitar", "cello"),
        ),
    ),
    "reggae": Style(
        tempo_bpm=(68, 86),
        swing=(0.03, 0.15),
        modes=("major", "minor"),
        grooves=(
            {"kick": "........9.......", "rim": "........9.......", "hat": "7.5.7.5.7.5.7.5."},
            {"kick": "9.......9.......", "rim": "....6...8...6...", "hat": "..7...7...7...7."},
        ),
        bass_lines=("..r-r-.....f-o--", "r--.r-f-..r-..a-", "r---..o-r---f-.."),
        basses=("fingered", "sub"),
        ensembles=(("offbeat_guitar", "organ"), ("offbeat_guitar", "clavinet"), ("offbeat_guitar", "brass")),
    ),
    "waltz": Style(
        steps_per_bar=12,
        tempo_bpm=(84, 132),
        swing=(0.0, 0.03),
        modes=("major", "minor", "harmonic minor"),
        grooves=(
            {"kick": "9...........", "snare": "....6...6...", "ride": "8...6...6.4."},
            {"kick": "9.........5.", "rim": "....7...7...", "shaker": "7.4.7.4.7.4."},
        ),
        bass_lines=("r-----------", "r-------f-a-", "r---f---t---"),
        basses=("upright", "fingered"),
        ensembles=(
            ("piano", "violin"),
            ("acoustic_guitar", "clarinet"),
            ("piano", "strings"),
            ("picked_guitar", "flute"),
        ),
    ),
    "bossa nova": Style(
        tempo_bpm=(104, 136),
        swing=(0.0, 0.02),
        modes=("major", "dorian", "harmonic minor"),
        grooves=(
            {"kick": "9.....7.9.....7.", "rim": "8.....8.....8...", "hat": "6454645464546454"},
            {"kick": "9.....7.9.....7.", "rim": "..8...8.....8...", "shaker": "7353735373537353"},
        ),
        bass_lines=("r-----r-f-----f-", "r-----f-f-----a-"),
        basses=("upright", "fingered"),
        ensembles=(
            ("picked_guitar", "flute"),
            ("electric_piano", "saxophone"),
            ("picked_guitar", "piano"),
            ("piano", "trumpet"),
        ),
    ),
}
