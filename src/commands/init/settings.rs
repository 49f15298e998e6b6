//! The learning rate, the records in a step and the passes that suit a number of records.

use crate::config::RunConfig;
use crate::error::Result;
use crate::train::config::TrainConfig;
use crate::train::course::Course;

/// The learning rates and the pairs in a step that suit fewer pairs than `below`. The page of the book on tuning has the same table.
struct Suited {
    below: usize,
    rates: &'static [f64],
    per_step: &'static [usize],
}

const SUITED: [Suited; 5] = [
    Suited { below: 1_000, rates: &[1e-4, 2e-4], per_step: &[4] },
    Suited { below: 4_000, rates: &[5e-5], per_step: &[4] },
    Suited { below: 10_000, rates: &[2e-5], per_step: &[4] },
    Suited { below: 50_000, rates: &[2e-5], per_step: &[32] },
    Suited { below: usize::MAX, rates: &[1e-5, 5e-6], per_step: &[32, 64, 128] },
];

/// Passes over the data that are tried until the run is long enough to learn, or short enough to stay near its reference.
const EPOCHS: [f64; 14] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005];

/// Trains with what suits so many records. A run over so few that they teach nothing keeps its defaults and is warned of.
pub(super) fn suit(config: &mut RunConfig, records: usize) -> Result<()> {
    let needs = config.objective.resolve()?.needs();
    // What imitates has no reference to stay near.
    let counted = if needs.reference { records } else { 0 };
    let Some(suited) = SUITED.iter().find(|suited| counted < suited.below) else { return Ok(()) };
    for epochs in EPOCHS {
        for rate in suited.rates {
            for per_step in suited.per_step {
                let train = with(&config.train, (epochs, *rate, *per_step));
                if Course::new(&train, &config.lora, records, needs).warnings().is_empty() {
                    config.train = train;
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// The settings with other passes, rate and records in a step, which a micro-batch need not hold.
fn with(train: &TrainConfig, (epochs, rate, per_step): (f64, f64, usize)) -> TrainConfig {
    let micro_batch = train.per_device_train_batch_size.max(1);
    TrainConfig {
        num_train_epochs: epochs,
        learning_rate: rate,
        gradient_accumulation_steps: (per_step / micro_batch).max(1),
        ..train.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sources;
    use crate::objective::ObjectiveConfig;

    fn config() -> RunConfig {
        RunConfig::new("tiny-reviews", Sources::from("pairs.jsonl"))
    }

    #[test]
    fn no_number_of_pairs_is_warned_of() {
        for (records, rate, per_step) in [
            (60, 1e-4, 4),
            (999, 1e-4, 4),
            (1_350, 5e-5, 4),
            (5_502, 2e-5, 4),
            (9_999, 2e-5, 4),
            (10_000, 2e-5, 32),
            (49_999, 2e-5, 32),
            (59_502, 1e-5, 32),
        ] {
            let mut config = config();
            suit(&mut config, records).unwrap();
            let TrainConfig { learning_rate, gradient_accumulation_steps, num_train_epochs, .. } =
                config.train;
            let found =
                (learning_rate, gradient_accumulation_steps * config.train.per_device_train_batch_size);
            assert_eq!((found, num_train_epochs), ((rate, per_step), 1.0), "{records}");
        }
        for records in [12, 30, 1_000, 4_000, 200_000, 1_000_000, 50_000_000] {
            let mut config = config();
            suit(&mut config, records).unwrap();
            let needs = config.objective.resolve().unwrap().needs();
            let warnings = Course::new(&config.train, &config.lora, records, needs).warnings();
            assert!(warnings.is_empty(), "{records}: {warnings:?}");
        }
    }

    #[test]
    fn imitation_keeps_its_rate() {
        let mut config = config();
        let mut objective = ObjectiveConfig::default();
        objective.loss_type = vec!["sft".into()];
        config.objective = ObjectiveConfig::from(&objective.resolve().unwrap());
        suit(&mut config, 60_000).unwrap();
        assert_eq!(config.train.learning_rate, 1e-4);
    }

    #[test]
    fn the_book_has_the_same_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/tuning.md");
        let text = std::fs::read_to_string(page).unwrap();
        for Suited { below, rates, per_step } in SUITED {
            let range: String = match below {
                usize::MAX => "50,000 and more".into(),
                _ => format!("below {},000", below / 1_000),
            };
            let row = text.lines().find(|line| line.starts_with(&format!("| {range} |")));
            let row = row.unwrap_or_else(|| panic!("no row of {range}"));
            let rate = format!("{:e}", rates[0]);
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            assert!(cells[2].contains(&rate) && cells[3].starts_with(&per_step[0].to_string()), "{row}");
        }
    }
}
