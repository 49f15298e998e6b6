//! Where the time on a device goes.

/// All runs of one kernel or product.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Runs.
    pub launches: usize,
    /// Seconds on the device.
    pub seconds: f64,
    /// Bytes read and written.
    pub bytes: usize,
    /// Arithmetic.
    pub flop: usize,
}

/// Adds a run to the entry of its name.
pub fn add(entries: &mut Vec<Entry>, name: &str, seconds: f64, bytes: usize, flop: usize) {
    let place = entries.iter().position(|entry| entry.name == name).unwrap_or_else(|| {
        entries.push(Entry { name: name.to_string(), ..Entry::default() });
        entries.len() - 1
    });
    let entry = &mut entries[place];
    entry.launches += 1;
    entry.seconds += seconds;
    entry.bytes += bytes;
    entry.flop += flop;
}

/// A table of `entries`, the longest first; `wall` is the elapsed time in seconds.
pub fn table(entries: &[Entry], wall: f64) -> String {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let busy: f64 = entries.iter().map(|entry| entry.seconds).sum();
    let mut text =
        String::from("kernel                                   launches  seconds  share  TFLOP/s   TB/s\n");
    for entry in sorted {
        let rate = |work: usize| work as f64 / entry.seconds.max(1e-12) / 1e12;
        text.push_str(&format!(
            "{:<40} {:>8} {:>8.4} {:>5.1}% {:>8.1} {:>6.2}\n",
            entry.name,
            entry.launches,
            entry.seconds,
            100.0 * entry.seconds / busy.max(1e-12),
            rate(entry.flop),
            rate(entry.bytes)
        ));
    }
    let launches: usize = entries.iter().map(|entry| entry.launches).sum();
    text.push_str(&format!(
        "{launches} launches, {busy:.4} s on the device of {wall:.4} s ({:.1} % gaps)\n",
        100.0 * (1.0 - busy / wall.max(1e-12)).max(0.0)
    ));
    text
}
