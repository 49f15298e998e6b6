//! A page reader that looks at every page before it is decoded: counts inside a page are allocated as they are claimed.

use ::parquet::basic::Encoding;
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::schema::types::ColumnDescriptor;

use super::thrift::varint;

/// The most elements of all lists of a column in one row.
const MOST_ELEMENTS: usize = 1 << 18;

/// The pages of a column.
pub(super) struct Guarded<R> {
    inner: R,
    /// The highest levels of definition and repetition.
    levels: (i16, i16),
    /// The elements so far of the row that the last page may not have ended.
    elements: usize,
}

impl<R: PageReader> Guarded<R> {
    pub(super) fn new(inner: R, column: &ColumnDescriptor) -> Self {
        Self { inner, levels: (column.max_def_level(), column.max_rep_level()), elements: 0 }
    }

    /// Passes over pages without values, which pyarrow writes where it gives up a dictionary: the library takes one for the
    /// end of the column (60.1).
    fn pass_empty(&mut self) -> Result<()> {
        while self.inner.peek_next_page()?.is_some_and(|page| !page.is_dict && page.num_levels == Some(0)) {
            self.inner.skip_next_page()?;
        }
        Ok(())
    }

    fn check(&mut self, page: &Page) -> Result<()> {
        let buffer: &[u8] = page.buffer();
        let count = page.num_values() as usize;
        let mut at = 0;
        match page {
            Page::DictionaryPage { .. } => return Ok(()),
            Page::DataPage { rep_level_encoding, def_level_encoding, .. } => {
                for (most, encoding) in
                    [(self.levels.1, rep_level_encoding), (self.levels.0, def_level_encoding)]
                {
                    if most > 0 {
                        if *encoding != Encoding::RLE {
                            return Err(damaged(&format!("levels are encoded as {encoding}")));
                        }
                        let length = buffer.get(at..at + 4).ok_or_else(|| damaged("no length of levels"))?;
                        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
                        let end = (at + 4).saturating_add(length);
                        let levels = buffer.get(at + 4..end).ok_or_else(|| damaged("levels are cut off"))?;
                        if at == 0 && self.levels.1 > 0 {
                            self.rows(levels, count)?;
                        }
                        at = end;
                    }
                }
            }
            Page::DataPageV2 { rep_levels_byte_len, def_levels_byte_len, .. } => {
                let length = *rep_levels_byte_len as usize;
                let levels = buffer.get(..length).ok_or_else(|| damaged("levels are cut off"))?;
                if self.levels.1 > 0 {
                    self.rows(levels, count)?;
                }
                at = length.saturating_add(*def_levels_byte_len as usize);
            }
        }
        if page.encoding() == Encoding::DELTA_LENGTH_BYTE_ARRAY {
            // The sizes of blocks and miniblocks, and the number of lengths.
            let mut values = buffer.get(at..).unwrap_or_default();
            let numbers = [(); 3].map(|()| varint(&mut values));
            match numbers[2] {
                Some(claimed) if claimed <= count as u64 => {}
                _ => return Err(damaged("the number of lengths is not that of the values")),
            }
        }
        Ok(())
    }

    /// Counts the elements of each row by its repetition levels: the library reads a whole row at once.
    fn rows(&mut self, mut levels: &[u8], mut left: usize) -> Result<()> {
        let width = 16 - self.levels.1.leading_zeros() as usize;
        while left > 0 {
            let head = varint(&mut levels).ok_or_else(|| damaged("levels are cut off"))?;
            let count = usize::try_from(head >> 1).unwrap_or(usize::MAX);
            if head & 1 == 0 {
                let run = count.min(left);
                let value =
                    levels.split_off(..width.div_ceil(8)).ok_or_else(|| damaged("levels are cut off"))?;
                if run == 0 {
                    return Err(damaged("a run of levels is empty"));
                }
                self.elements = if value.iter().all(|byte| *byte == 0) { 1 } else { self.elements + run };
                left -= run;
            } else {
                let length = count.saturating_mul(width).min(levels.len());
                let packed = levels.split_off(..length).unwrap_or_default();
                let run = (length * 8 / width).min(left);
                if run == 0 {
                    return Err(damaged("levels are cut off"));
                }
                for i in 0..run {
                    let zero = (i * width..(i + 1) * width).all(|bit| packed[bit / 8] >> (bit % 8) & 1 == 0);
                    self.elements = if zero { 1 } else { self.elements + 1 };
                    self.limit()?;
                }
                left -= run;
            }
            self.limit()?;
        }
        Ok(())
    }

    fn limit(&self) -> Result<()> {
        if self.elements > MOST_ELEMENTS {
            return Err(ParquetError::General(format!(
                "a row has lists of more than {MOST_ELEMENTS} elements"
            )));
        }
        Ok(())
    }
}

fn damaged(what: &str) -> ParquetError {
    ParquetError::General(format!("a page is damaged: {what}"))
}

impl<R: PageReader> Iterator for Guarded<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl<R: PageReader> PageReader for Guarded<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.pass_empty()?;
        let page = self.inner.get_next_page()?;
        if let Some(page) = &page {
            self.check(page)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pass_empty()?;
        self.inner.at_record_boundary()
    }
}
