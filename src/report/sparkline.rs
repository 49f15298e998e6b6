//! A curve in one line of text.

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws values with at most `width` characters, each the mean of a part of them. Values that are not finite are left out;
/// a curve without values is empty.
pub fn sparkline(values: &[f64], width: usize) -> String {
    let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let width = width.min(values.len());
    let part = |i: usize| &values[i * values.len() / width..(i + 1) * values.len() / width];
    let means: Vec<f64> = (0..width).map(|i| part(i).iter().sum::<f64>() / part(i).len() as f64).collect();
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let level = |value: &f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        LEVELS[((share * 8.0) as usize).min(7)]
    };
    means.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_span_the_levels() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[1.0, 1.0], 8), "▅▅");
        assert_eq!(sparkline(&[4.0, f64::NAN, 0.0], 8), "█▁");
        assert_eq!((sparkline(&[], 8), sparkline(&[1.0], 0)), (String::new(), String::new()));
        // 0..=6 in three parts of 2, 2 and 3: means 0.5, 2.5 and 5.
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), "▁▄█");
    }
}
