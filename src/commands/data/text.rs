//! The report of `data check` for a person, and its errors and warnings.

use super::report::Report;
use crate::data::check::{Bias, Figures, Leaks};

/// The width of the longest bar.
const BAR: usize = 40;

/// The report.
pub(super) fn report(report: &Report) -> String {
    let mut text = figures(&report.train);
    if let Some(eval) = &report.eval {
        text.push_str(&format!("\nevaluation data\n{}", figures(eval)));
    }
    if let Some(leaks) = &report.leaks {
        text.push_str(&line("leaks", &format!("{} records, {} prompts", leaks.records, leaks.prompts)));
    }
    if let Some(tokens) = &report.tokens {
        let saved = 100.0 * tokens.saved;
        let of = tokens.unpacked;
        let value = format!("{} an epoch; sharing prompts saves {saved:.0} % of {of}", tokens.packed);
        text.push_str(&line("tokens", &value));
    }
    if let Some(bytes) = report.peak_memory {
        text.push_str(&line("peak memory", &format!("{:.0} MB on the CPU", bytes as f64 / 1e6)));
        text.push_str(&line(
            "time",
            "not estimated; it depends on the machine (train --profile measures it)",
        ));
    }
    report.warnings.iter().for_each(|warning| text.push_str(&format!("warning: {warning}\n")));
    text
}

fn line(name: &str, value: &str) -> String {
    format!("{name:<18} {value}\n")
}

fn figures(found: &Figures) -> String {
    let mut text = line("records", &found.records.to_string());
    found
        .kinds
        .iter()
        .for_each(|(kind, count)| text.push_str(&line(&format!("  {kind}"), &count.to_string())));
    text.push_str(&line("invalid records", &found.refused.count.to_string()));
    found.refused.first.iter().for_each(|message| text.push_str(&format!("  {message}\n")));
    let more = found.refused.count - found.refused.first.len();
    if more > 0 {
        text.push_str(&format!("  ... and {more} more\n"));
    }
    for (field, length) in &found.lengths {
        let value = format!(
            "p50 {}, p90 {}, p99 {}, max {} {}",
            length.p50, length.p90, length.p99, length.max, found.unit
        );
        text.push_str(&line(field, &value));
    }
    let most = found.histogram.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    for bar in &found.histogram {
        let width = (bar.count * BAR).div_ceil(most);
        let range = format!("{}-{}", bar.from, bar.to);
        text.push_str(&format!("  {range:>16} {:<BAR$} {}\n", "#".repeat(width), bar.count));
    }
    text.push_str(&line("duplicates", &found.repeats.duplicates.to_string()));
    text.push_str(&line("conflicts", &found.repeats.conflicts.to_string()));
    if let Some(bias) = &found.length_bias {
        text.push_str(&line("length bias", &length_bias(bias, found.unit)));
    }
    if let Some(cut) = &found.truncation {
        let value = format!(
            "{} records lose tokens, {} are left out; {} tokens in all",
            cut.truncated, cut.dropped, cut.lost_tokens
        );
        text.push_str(&line("truncation", &value));
        cut.first_dropped.iter().take(3).for_each(|why| text.push_str(&format!("  {why}\n")));
    }
    if let Some(labels) = found.labels.as_ref().and_then(|labels| labels.described()) {
        text.push_str(&line("labels", &labels));
    }
    if let Some(judged) = &found.judged {
        let value = format!("{} desirable, {} undesirable", judged.desirable, judged.undesirable);
        text.push_str(&line("judgements", &value));
    }
    text
}

fn length_bias(bias: &Bias, unit: &str) -> String {
    let z = bias.z.map_or_else(String::new, |z| format!("z = {z:.2}, "));
    let verdict = if bias.is_significant() { "more than chance explains" } else { "no more than chance" };
    format!(
        "chosen is longer in {:.1} % of {} pairs, by {:+.1} {unit} on average ({z}{verdict})",
        100.0 * bias.chosen_longer,
        bias.pairs,
        bias.mean_difference
    )
}

/// What keeps a run from starting.
pub(super) fn errors(train: &Figures, eval: Option<&Figures>) -> Vec<String> {
    let mut errors = Vec::new();
    for (name, found) in [("", Some(train)), (" of the evaluation data", eval)] {
        let Some(found) = found else { continue };
        if found.refused.count > 0 {
            errors.push(format!("{} records{name} are invalid", found.refused.count));
        } else if found.records == 0 {
            errors.push(format!("there are no records{name}"));
        }
        if let Some(cut) =
            found.truncation.as_ref().filter(|cut| cut.dropped > 0 && cut.dropped == found.records)
        {
            errors.push(format!(
                "all {} records{name} are left out by truncation: raise max_length",
                cut.dropped
            ));
        }
        if let Some(long) = &found.too_long {
            errors.push(format!(
                "{} records{name} are longer than the model's positions, the first {}; the longest has {} tokens: lower \
                 max_length",
                long.records, long.first, long.longest
            ));
        }
    }
    errors
}

/// What a run accepts and a person should know.
pub(super) fn warnings(found: &Figures, leaks: Option<&Leaks>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut both = |places: &Option<[String; 2]>, what: String| {
        if let Some([a, b]) = places {
            warnings.push(format!("{what}, first {a} and {b}"));
        }
    };
    let repeats = &found.repeats;
    both(&repeats.first_duplicate, format!("{} records repeat an earlier one", repeats.duplicates));
    both(&repeats.first_conflict, format!("{} pairs or answers contradict themselves", repeats.conflicts));
    if let Some(leaks) = leaks {
        both(&leaks.first_record, format!("{} evaluation records are training records", leaks.records));
        both(&leaks.first_prompt, format!("{} evaluation prompts are training prompts", leaks.prompts));
    }
    for special in &found.special_tokens {
        let forges = if special.within == "messages" { ", where it forges the end of a turn" } else { "" };
        warnings.push(format!(
            "the special token {} is in the {} of {} records{forges}; first {}",
            special.token, special.within, special.records, special.first
        ));
    }
    warnings.extend(found.doubts.iter().cloned());
    if let Some(cut) = found.truncation.as_ref().filter(|cut| cut.dropped > 0) {
        warnings.push(format!("{} records are left out by truncation", cut.dropped));
    }
    if let Some(bias) = found.length_bias.as_ref().filter(|bias| bias.is_significant()) {
        warnings.push(format!("length bias: {}", length_bias(bias, found.unit)));
    }
    if let Some(labels) = found.labels.as_ref().filter(|labels| labels.below_half > 0) {
        warnings.push(format!("{} labels are below 0.5: rejected is preferred", labels.below_half));
    }
    warnings
}
