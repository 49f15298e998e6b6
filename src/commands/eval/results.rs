//! What an evaluation writes: a table to standard output, and JSON, CSV and SVG into a directory.

use std::path::Path;

use serde::Serialize;

use crate::commands::output::{print, print_json, say};
use crate::error::{Error, Result};
use crate::files;
use crate::report::plot::Plot;
use crate::report::sheet::Sheet;

/// Results of an evaluation under one name.
pub(super) struct Results<'a, T> {
    /// The name of the files.
    pub(super) name: &'a str,
    /// All figures.
    pub(super) figures: &'a T,
    /// The main table.
    pub(super) sheet: &'a Sheet,
    /// The figure.
    pub(super) plot: &'a Plot,
    /// What stands below the table.
    pub(super) remarks: &'a [String],
}

impl<T: Serialize> Results<'_, T> {
    /// Writes the files and prints the table, or JSON.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(super) fn publish(&self, directory: &Path, json: bool) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self.figures).map_err(|e| Error::Data(e.to_string()))?;
        text.push(b'\n');
        let path = |end: &str| directory.join(format!("{}.{end}", self.name));
        files::write_bytes(&path("json"), &text)?;
        files::write_bytes(&path("csv"), self.sheet.csv()?.as_bytes())?;
        files::write_bytes(&path("svg"), self.plot.svg().as_bytes())?;
        if json {
            print_json(self.figures)?;
        } else {
            let remarks: String = self.remarks.iter().map(|remark| format!("{remark}\n")).collect();
            print(format!("{}{remarks}", self.sheet.text()).as_bytes())?;
        }
        say(&format!("{} (also .csv, .svg)", path("json").display()));
        Ok(())
    }
}
