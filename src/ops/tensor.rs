//! The value that operations exchange: rows of f32.

use std::ops::Range;
use std::sync::Arc;

use super::host;
use crate::error::{Error, Result};

/// An activation `[rows, columns]`, row-major in the memory of the processor. Clones share the numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    numbers: Arc<Vec<f32>>,
    rows: usize,
    columns: usize,
}

impl Tensor {
    /// Creates a tensor that owns `numbers`, without copying them.
    ///
    /// # Errors
    /// Returns an error if the shape does not hold exactly these numbers.
    pub fn new(numbers: Vec<f32>, (rows, columns): (usize, usize)) -> Result<Self> {
        if rows.checked_mul(columns) != Some(numbers.len()) {
            return Err(misfit(&format!("{} numbers", numbers.len()), (rows, columns)));
        }
        Ok(Self { numbers: Arc::new(numbers), rows, columns })
    }

    /// Creates a tensor of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { numbers: Arc::new(host::zeros(rows * columns)), rows, columns }
    }

    /// Returns the number of rows and of columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Checks that it has `columns` columns.
    ///
    /// # Errors
    /// Returns an error if it has another number of them.
    pub(super) fn expect_columns(&self, columns: usize) -> Result<()> {
        if self.columns == columns {
            Ok(())
        } else {
            Err(misfit(&format!("rows of {columns}"), self.shape()))
        }
    }

    /// Returns the numbers in row-major order.
    pub fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    /// Returns the numbers of one row.
    ///
    /// # Panics
    /// Panics if the tensor has no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.columns..(row + 1) * self.columns]
    }

    /// Returns the numbers as an owned buffer; they are copied only if another tensor shares them.
    pub fn into_numbers(self) -> Vec<f32> {
        Arc::try_unwrap(self.numbers).unwrap_or_else(|shared| host::copy(&shared))
    }

    /// Returns the same numbers in another shape, without copying them.
    ///
    /// # Errors
    /// Returns an error if the shape does not hold exactly these numbers.
    pub fn reshaped(&self, (rows, columns): (usize, usize)) -> Result<Self> {
        if rows.checked_mul(columns) != Some(self.numbers.len()) {
            return Err(misfit(&format!("a tensor {:?}", self.shape()), (rows, columns)));
        }
        Ok(Self { numbers: self.numbers.clone(), rows, columns })
    }

    /// Returns a copy of some columns: `[rows, range.len()]`.
    ///
    /// # Errors
    /// Returns an error if the tensor lacks one of the columns.
    pub fn columns(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.columns {
            return Err(misfit(&format!("columns {range:?}"), self.shape()));
        }
        let out = host::build_rows(self.rows, range.len(), |row, out| {
            out.copy_from_slice(&self.numbers[row * self.columns..][range.clone()]);
        });
        Self::new(out, (self.rows, range.len()))
    }

    /// Returns the tensors beside each other: `[rows, Σ columns]`.
    ///
    /// # Errors
    /// Returns an error if the numbers of rows differ.
    pub fn beside(parts: &[&Self]) -> Result<Self> {
        let rows = parts.first().map_or(0, |first| first.rows);
        if let Some(other) = parts.iter().find(|part| part.rows != rows) {
            return Err(misfit(&format!("{rows} rows beside a tensor"), other.shape()));
        }
        let columns = parts.iter().map(|part| part.columns).sum();
        let out = host::build_rows(rows, columns, |row, mut out| {
            for part in parts {
                let (to, rest) = out.split_at_mut(part.columns);
                to.copy_from_slice(&part.numbers[row * part.columns..][..part.columns]);
                out = rest;
            }
        });
        Self::new(out, (rows, columns))
    }

    /// Returns the rows of `other` below those of `self`: `[rows + other.rows, columns]`.
    ///
    /// # Errors
    /// Returns an error if the numbers of columns differ.
    pub fn above(&self, other: &Self) -> Result<Self> {
        if self.columns != other.columns {
            return Err(misfit(&format!("{} columns above a tensor", self.columns), other.shape()));
        }
        let all = [self.numbers(), other.numbers()].concat();
        Self::new(all, (self.rows + other.rows, self.columns))
    }

    /// Returns the sum, element by element, of two tensors of the same shape.
    ///
    /// # Errors
    /// Returns an error if the shapes differ.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        self.with(other, |a, b| a + b)
    }

    /// Returns the product, element by element, of two tensors of the same shape.
    ///
    /// # Errors
    /// Returns an error if the shapes differ.
    pub fn times(&self, other: &Self) -> Result<Self> {
        self.with(other, |a, b| a * b)
    }

    fn with(&self, other: &Self, operation: impl Fn(f32, f32) -> f32 + Sync) -> Result<Self> {
        if self.shape() != other.shape() {
            return Err(misfit(&format!("a tensor {:?}", self.shape()), other.shape()));
        }
        let columns = self.columns;
        let out = host::build_rows(self.rows, columns, |row, out| {
            let range = row * columns..(row + 1) * columns;
            let pairs = self.numbers[range.clone()].iter().zip(&other.numbers[range]);
            out.iter_mut().zip(pairs).for_each(|(out, (a, b))| *out = operation(*a, *b));
        });
        Self::new(out, self.shape())
    }

    /// Returns each number through `change`.
    pub fn map(&self, change: impl Fn(f32) -> f32 + Sync) -> Self {
        let (rows, columns) = self.shape();
        let out = host::build_rows(rows, columns, |row, out| {
            let from = &self.numbers[row * columns..(row + 1) * columns];
            out.iter_mut().zip(from).for_each(|(out, x)| *out = change(*x));
        });
        Self { numbers: Arc::new(out), rows, columns }
    }

    /// Returns each column multiplied by its own factor.
    ///
    /// # Errors
    /// Returns an error if there are not as many factors as columns.
    pub fn scaled_columns(&self, factors: &[f32]) -> Result<Self> {
        if factors.len() != self.columns {
            return Err(misfit(&format!("{} factors", factors.len()), self.shape()));
        }
        let out = host::build_rows(self.rows, self.columns, |row, out| {
            let from = &self.numbers[row * self.columns..(row + 1) * self.columns];
            out.iter_mut().zip(from.iter().zip(factors)).for_each(|(out, (x, factor))| *out = x * factor);
        });
        Self::new(out, self.shape())
    }
}

fn misfit(what: &str, shape: (usize, usize)) -> Error {
    Error::Model(format!(
        "{what} for a shape of {shape:?}: tensors that do not fit each other; where config.json belongs to the \
         weights, this is a defect of the program: please report it with both"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(rows: usize, columns: usize) -> Tensor {
        Tensor::new((0..rows * columns).map(|i| i as f32).collect(), (rows, columns)).unwrap()
    }

    #[test]
    fn columns_and_beside_are_inverse() {
        let x = counting(5, 7);
        let (left, right) = (x.columns(0..3).unwrap(), x.columns(3..7).unwrap());
        assert_eq!(right.numbers()[..5], [3.0, 4.0, 5.0, 6.0, 10.0]);
        assert_eq!(Tensor::beside(&[&left, &right]).unwrap(), x);
        assert_eq!(x.columns(7..7).unwrap().shape(), (5, 0));
    }

    #[test]
    fn arithmetic_is_element_by_element() {
        let x = counting(2, 3);
        assert_eq!(x.plus(&x).unwrap().numbers(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(x.times(&x).unwrap().numbers(), [0.0, 1.0, 4.0, 9.0, 16.0, 25.0]);
        assert_eq!(x.map(|x| -x).numbers()[5], -5.0);
        assert_eq!(x.scaled_columns(&[1.0, 0.0, 2.0]).unwrap().numbers(), [0.0, 0.0, 4.0, 3.0, 0.0, 10.0]);
        assert_eq!(x.above(&x).unwrap().numbers()[5..], [5.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(Tensor::zeros(2, 2).into_numbers(), [0.0; 4]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (x, y) = (counting(2, 3), counting(3, 2));
        assert!(Tensor::new(vec![0.0; 5], (2, 3)).is_err() && Tensor::new(vec![], (usize::MAX, 2)).is_err());
        assert!(x.reshaped((4, 2)).is_err() && x.reshaped((1, 6)).is_ok());
        assert!(x.plus(&y).is_err() && x.times(&y).is_err() && Tensor::beside(&[&x, &y]).is_err());
        assert!(x.above(&y).is_err() && x.columns(2..4).is_err() && x.scaled_columns(&[1.0]).is_err());
        let text = x.plus(&y).unwrap_err().to_string();
        assert!(text.contains("(2, 3)") && text.contains("(3, 2)"), "{text}");
    }
}
