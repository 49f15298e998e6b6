//! A table: aligned text for people, CSV for programs.

use crate::error::{Error, Result};

/// A value of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A text.
    Text(String),
    /// A number and its digits after the point in text; CSV has all digits.
    Number(f64, usize),
    /// A number between 0 and 1 as a percentage in text.
    Share(f64),
    /// A count.
    Count(u64),
    /// No value.
    Empty,
}

impl Cell {
    /// A number that may be missing.
    pub fn number(value: Option<f64>, digits: usize) -> Self {
        value.map_or(Self::Empty, |value| Self::Number(value, digits))
    }

    /// A share that may be missing.
    pub fn share(value: Option<f64>) -> Self {
        value.map_or(Self::Empty, Self::Share)
    }

    /// A count.
    pub fn count(value: usize) -> Self {
        Self::Count(value as u64)
    }

    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, digits) => format!("{value:.digits$}"),
            Self::Share(share) => format!("{:.1} %", 100.0 * share),
            Self::Count(count) => count.to_string(),
            Self::Empty => "-".into(),
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, _) | Self::Share(value) => value.to_string(),
            Self::Count(count) => count.to_string(),
            Self::Empty => String::new(),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// A table with a name for each column.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Sheet {
    /// A table without rows.
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self { columns: columns.into_iter().map(String::from).collect(), rows: Vec::new() }
    }

    /// Adds a row with a value for each column.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        self.rows.push(row.into_iter().collect());
    }

    /// The table as text: columns aligned, numbers to the right.
    pub fn text(&self) -> String {
        let shown: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let width = |i: usize| {
            let cells = shown.iter().filter_map(|row| row.get(i)).chain([&self.columns[i]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let is_text = |i: usize| self.rows.iter().all(|row| matches!(row.get(i), Some(Cell::Text(_)) | None));
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
                let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
                if is_text(i) { format!("{cell}{blanks}") } else { format!("{blanks}{cell}") }
            });
            format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        std::iter::once(&self.columns).chain(&shown).map(|row| line(row)).collect()
    }

    /// The table as CSV, with its names in the first line.
    ///
    /// # Errors
    /// If a row has another number of values than there are columns.
    pub fn csv(&self) -> Result<String> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let failed =
            |e: &dyn std::fmt::Display| Error::Data(format!("a table cannot be written as CSV: {e}"));
        out.write_record(&self.columns).map_err(|e| failed(&e))?;
        for row in &self.rows {
            out.write_record(row.iter().map(Cell::plain)).map_err(|e| failed(&e))?;
        }
        let bytes = out.into_inner().map_err(|e| failed(&e))?;
        String::from_utf8(bytes).map_err(|e| failed(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_aligned_and_csv_is_exact() {
        let mut sheet = Sheet::new(["run", "reward", "pairs", "share"]);
        sheet.push(["a, b".into(), Cell::Number(0.123_456, 2), Cell::count(7), Cell::Share(0.5)]);
        sheet.push(["π".into(), Cell::number(None, 2), Cell::count(1000), Cell::share(None)]);
        assert_eq!(
            sheet.text(),
            "run   reward  pairs   share\na, b    0.12      7  50.0 %\nπ          -   1000       -\n"
        );
        assert_eq!(sheet.csv().unwrap(), "run,reward,pairs,share\n\"a, b\",0.123456,7,0.5\nπ,,1000,\n");
    }
}
