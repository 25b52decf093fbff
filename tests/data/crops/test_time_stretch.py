"""Change of pitch and tempo: accuracy, level, transients, phase relations and silence."""

import math

import numpy as np
import pytest
import torch

from cyclesep.data.crops.time_stretch import PitchTempo, change_pitch_tempo

RATE = 16_000
LENGTH = 24_000
CHANGES = [
    PitchTempo(2.0, 1.0),
    PitchTempo(-2.0, 1.0),
    PitchTempo(0.0, 1.1),
    PitchTempo(0.0, 0.88),
    PitchTempo(1.37, 0.93),
    PitchTempo(-6.0, 1.4),
    PitchTempo(6.0, 0.7),
]


def times(pitch_tempo: PitchTempo) -> torch.Tensor:
    """Return the time of each input sample relative to the start of the output, in seconds at the original tempo."""
    samples = pitch_tempo.source_samples(LENGTH, RATE)
    context = (samples - math.ceil(LENGTH * pitch_tempo.tempo)) // 2
    return (torch.arange(samples, dtype=torch.float64) - context) / RATE


def changed(recording: torch.Tensor, pitch_tempo: PitchTempo) -> torch.Tensor:
    return change_pitch_tempo(recording.float(), pitch_tempo, num_samples=LENGTH, sample_rate=RATE)


def tone(frequency: float, pitch_tempo: PitchTempo) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency * times(pitch_tempo))[None, None]


def frequency_of(signal: torch.Tensor) -> float:
    """Return the frequency in Hz of the spectral maximum, accurate to 0.01 Hz."""
    windowed = signal.double().numpy() * np.hanning(len(signal))
    bins = 1 << 21
    return float(np.abs(np.fft.rfft(windowed, bins)).argmax() * RATE / bins)


def decibels(signal: torch.Tensor, reference: torch.Tensor) -> float:
    return 10 * math.log10(float(signal.square().mean() / reference.square().mean()))


def clicks(seconds: list[float], pitch_tempo: PitchTempo) -> torch.Tensor:
    """Return a recording with unit impulses at these times."""
    at = times(pitch_tempo)
    recording = torch.zeros(1, len(at))
    for second in seconds:
        recording[0, int((at - second).abs().argmin())] = 1.0
    return recording


def test_440_hz_up_two_semitones_is_493_88_hz() -> None:
    up = changed(tone(440.0, PitchTempo(2.0)), PitchTempo(2.0))
    assert frequency_of(up[0, 0]) == pytest.approx(493.883, abs=0.1)


@pytest.mark.parametrize("pitch_tempo", CHANGES)
@pytest.mark.parametrize("frequency", [110.0, 440.0, 3000.0])
def test_pitch_is_accurate_to_half_a_cent_and_level_is_kept(frequency: float, pitch_tempo: PitchTempo) -> None:
    recording = tone(frequency, pitch_tempo)
    result = changed(recording, pitch_tempo)
    cents = 1200 * math.log2(frequency_of(result[0, 0]) / frequency) - 100 * pitch_tempo.semitones
    assert cents == pytest.approx(0, abs=0.5)
    assert decibels(result, recording) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("pitch_tempo", CHANGES)
def test_tone_is_not_distorted(pitch_tempo: PitchTempo) -> None:
    """The residual of a sinusoidal fit is at least 30 dB below the tone."""
    result = changed(tone(440.0, pitch_tempo), pitch_tempo)[0, 0].double()
    phase = 2 * math.pi * frequency_of(result) / RATE * torch.arange(LENGTH, dtype=torch.float64)
    basis = torch.stack([torch.sin(phase), torch.cos(phase)], dim=1)
    rest = result - basis @ torch.linalg.lstsq(basis, result[:, None]).solution[:, 0]
    assert decibels(rest, result) < -30


@pytest.mark.parametrize("pitch_tempo", CHANGES[:5])
def test_clicks_are_moved_by_the_tempo_and_stay_short(pitch_tempo: PitchTempo) -> None:
    seconds = [0.2, 0.5, 0.61, 0.9, 1.2]
    result = changed(clicks(seconds, pitch_tempo)[None], pitch_tempo)[0, 0].square()
    for second in seconds:
        centre = round(second / pitch_tempo.tempo * RATE)
        around = result[centre - 800 : centre + 800]
        assert abs(int(around.argmax()) - 800) <= 0.003 * RATE
        # 20 ms around a click contain over 85 % of the energy of 100 ms.
        assert float(around[640:960].sum() / around.sum()) > 0.85


@pytest.mark.parametrize("pitch_tempo", CHANGES[:5])
def test_drum_beat_has_little_pre_echo(pitch_tempo: PitchTempo) -> None:
    rng = torch.Generator().manual_seed(0)
    since = times(pitch_tempo) - 0.7
    recording = torch.where(since >= 0, torch.exp(-since / 0.02), 0.0) * torch.randn(len(since), generator=rng)
    result = changed(recording[None, None], pitch_tempo)[0, 0].square()
    begin = round(0.7 / pitch_tempo.tempo * RATE)
    assert float(result[: begin - RATE // 200].sum() / result.sum()) < 0.02


@pytest.mark.parametrize("pitch_tempo", CHANGES[:5])
def test_noise_level_is_kept_within_about_1_db(pitch_tempo: PitchTempo) -> None:
    rng = torch.Generator().manual_seed(1)
    recording = torch.randn(4, 2, len(times(pitch_tempo)), generator=rng)
    assert -1.2 < decibels(changed(recording, pitch_tempo), recording) < 0.1


def test_no_change_returns_the_input_bit_exactly() -> None:
    recording = torch.randn(3, 2, LENGTH)
    assert PitchTempo().source_samples(LENGTH, RATE) == LENGTH
    assert torch.equal(changed(recording, PitchTempo()), recording)


@pytest.mark.parametrize("pitch_tempo", CHANGES)
def test_output_has_no_fades_or_silence_at_its_ends(pitch_tempo: PitchTempo) -> None:
    result = changed(tone(1000.0, pitch_tempo), pitch_tempo)[0, 0]
    assert decibels(result[:160], result) == pytest.approx(0, abs=0.5)
    assert decibels(result[-160:], result) == pytest.approx(0, abs=0.5)


def test_stems_of_a_song_stay_aligned() -> None:
    both = torch.stack([clicks([0.5, 1.0], CHANGES[4]), clicks([0.5, 0.8], CHANGES[4])])
    first, second = changed(both, CHANGES[4])[:, 0]
    centre = round(0.5 / CHANGES[4].tempo * RATE)
    window = slice(centre - 400, centre + 400)
    assert abs(int(first[window].abs().argmax()) - int(second[window].abs().argmax())) <= 16


def test_result_of_a_stem_does_not_depend_on_the_batch() -> None:
    stems = torch.randn(4, 2, len(times(CHANGES[4])), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(changed(stems, CHANGES[4])[2:3], changed(stems[2:3], CHANGES[4]), rtol=0, atol=1e-5)


def test_channel_level_and_delay_are_kept() -> None:
    left = torch.randn(len(times(CHANGES[4])), generator=torch.Generator().manual_seed(3))
    scaled = changed(torch.stack([left, -0.5 * left])[None], CHANGES[4])[0]
    torch.testing.assert_close(scaled[1], -0.5 * scaled[0], rtol=0, atol=1e-5)
    # If only the tempo changes, a delay of 20 samples between the channels stays 20 samples.
    left = torch.randn(len(times(CHANGES[2])), generator=torch.Generator().manual_seed(3))
    late = changed(torch.stack([left, left.roll(20)])[None], CHANGES[2])[0]
    correlations = [float((late[0, 100:-100] * late[1].roll(-lag)[100:-100]).mean()) for lag in range(41)]
    assert int(np.argmax(correlations)) == 20
    assert correlations[20] > 0.9 * float(late.square().mean())


def test_fade_in_from_digital_silence_is_kept() -> None:
    fading = tone(300.0, CHANGES[2]) * (times(CHANGES[2]) - 0.5).clamp(min=0) * 0.02
    recording = (fading * 32768).round() / 32768
    result = changed(recording, CHANGES[2])
    assert decibels(result[..., -4000:], recording[..., -2048 - 4400 : -2048]) == pytest.approx(0, abs=0.2)
    assert float(result[..., :4000].abs().max()) < 1e-4


def test_digital_silence_stays_silent() -> None:
    assert not changed(torch.zeros(1, 1, len(times(CHANGES[1]))), CHANGES[1]).any()


def test_too_short_recording_raises() -> None:
    recording = tone(440.0, CHANGES[2])
    with pytest.raises(IndexError, match="exceed a recording"):
        changed(recording[..., :-4000], CHANGES[2])


def test_processing_runs_on_the_device_of_the_recording() -> None:
    # Tensors on "meta" have no values: any access on the CPU would raise.
    result = changed(tone(440.0, CHANGES[4]).to("meta"), CHANGES[4])
    assert result.device.type == "meta"
    assert result.shape == (1, 1, LENGTH)
