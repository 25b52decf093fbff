"""The status line of a training run."""

from cyclesep.training.training_progress import TrainingProgress, _line


def test_line_has_scores_speed_data_wait_and_losses() -> None:
    progress = TrainingProgress(
        step=7,
        losses={
            "separator/cycle": 0.25,
            "separator/total": 1.0,
            "separator/gradient_norm": 3.0,
            "target_discriminator/adversarial": 0.5,
            "steps_skipped": 0.0,
        },
        metrics={"validation/sdr": 4.321, "validation/si_sdr": 3.0, "validation/si_sdri": 8.0},
        speed={"crops_per_second": 61.4, "data_wait_fraction": 0.0123},
    )
    scores, speed = "SDR 4.32 dB, SI-SDR 3.00 dB (SI-SDRi +8.00)", "61 crops/s, 1.2% data wait"
    assert _line(progress) == f"{scores}  {speed}  cycle 0.250  total 1.000"


def test_line_is_empty_without_figures() -> None:
    assert _line(TrainingProgress(step=0)) == ""
