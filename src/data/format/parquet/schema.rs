//! The columns of a file as a tree of JSON values.
//!
//! Levels: a value is there if its definition level reaches that of its node; an element begins where the repetition
//! level is that of its list. Format: <https://github.com/apache/parquet-format/blob/master/LogicalTypes.md> with its
//! rules for lists of older writers.

use std::collections::BTreeSet;
use std::ops::Range;

use ::parquet::basic::{ConvertedType, LogicalType, Repetition};
use ::parquet::schema::types::{SchemaDescriptor, Type};

use super::values::Leaf;

/// Groups inside one another that are read: lists, maps and structs of records are a few.
pub(super) const DEPTH: usize = 48;

/// A value of a row.
#[derive(Debug)]
pub(super) struct Node {
    /// The definition level from which on the value is not null.
    pub(super) level: i16,
    /// The columns that hold it.
    pub(super) leaves: Range<usize>,
    pub(super) shape: Shape,
}

#[derive(Debug)]
pub(super) enum Shape {
    Leaf(Leaf),
    /// An object; `is_sparse` says that it has no keys for what is null.
    Struct {
        fields: Vec<(String, Node)>,
        is_sparse: bool,
    },
    List(Items<Node>),
    Map(Items<(Node, Node)>),
}

/// The elements of a list or map.
#[derive(Debug)]
pub(super) struct Items<T> {
    /// The definition level from which on there is an element.
    pub(super) level: i16,
    /// The repetition level of every element but the first.
    pub(super) repetition: i16,
    pub(super) item: Box<T>,
}

/// The fields below which a null is a key that the row did not have: every tool, and every call, has arguments of its own,
/// and a struct gives each the keys of all.
const SPARSE: [&str; 3] = ["tools", "arguments", "parameters"];

/// Returns the columns of `schema` by name.
///
/// # Errors
/// What no writer produces, or what has no JSON form.
pub(super) fn columns(schema: &SchemaDescriptor) -> Result<Vec<(String, Node)>, String> {
    let mut reader = Reader { schema, leaf: 0, is_sparse: false };
    let columns = reader.fields(schema.root_schema(), 0, 0)?;
    if reader.leaf != schema.num_columns() {
        return Err("its schema does not fit its columns".into());
    }
    Ok(columns)
}

struct Reader<'a> {
    schema: &'a SchemaDescriptor,
    /// The number of columns so far.
    leaf: usize,
    /// Whether the place is below one of the fields [`SPARSE`].
    is_sparse: bool,
}

impl Reader<'_> {
    fn fields(&mut self, group: &Type, level: i16, repetition: i16) -> Result<Vec<(String, Node)>, String> {
        let (mut seen, mut fields) = (BTreeSet::new(), Vec::new());
        for field in group.get_fields() {
            if !seen.insert(field.name()) {
                return Err(format!("two columns have the name `{}`; rename one of them", field.name()));
            }
            let outside = self.is_sparse;
            self.is_sparse |= SPARSE.contains(&field.name());
            fields.push((field.name().to_owned(), self.node(field, level, repetition)?));
            self.is_sparse = outside;
        }
        if fields.is_empty() {
            return Err(format!("`{}` has no columns", group.name()));
        }
        Ok(fields)
    }

    fn node(&mut self, ty: &Type, level: i16, repetition: i16) -> Result<Node, String> {
        match ty.get_basic_info().repetition() {
            Repetition::REQUIRED => self.present(ty, level, repetition),
            Repetition::OPTIONAL => self.present(ty, level + 1, repetition),
            // A list without the groups around it.
            Repetition::REPEATED => {
                let first = self.leaf;
                let item = self.present(ty, level + 1, repetition + 1)?;
                let items = Items { level: level + 1, repetition: repetition + 1, item: Box::new(item) };
                Ok(Node { level, leaves: first..self.leaf, shape: Shape::List(items) })
            }
        }
    }

    /// The node of `ty`, which is there from `level` on.
    fn present(&mut self, ty: &Type, level: i16, repetition: i16) -> Result<Node, String> {
        let first = self.leaf;
        let shape = if ty.is_primitive() {
            self.leaf(ty, level, repetition)?
        } else if is(ty, &LogicalType::List, &[ConvertedType::LIST]) {
            self.list(ty, level, repetition)?
        } else if is(ty, &LogicalType::Map, &[ConvertedType::MAP, ConvertedType::MAP_KEY_VALUE]) {
            self.map(ty, level, repetition)?
        } else {
            Shape::Struct { fields: self.fields(ty, level, repetition)?, is_sparse: self.is_sparse }
        };
        Ok(Node { level, leaves: first..self.leaf, shape })
    }

    fn leaf(&mut self, ty: &Type, level: i16, repetition: i16) -> Result<Shape, String> {
        let column = self.schema.columns().get(self.leaf).ok_or("its schema does not fit its columns")?;
        if (column.max_def_level(), column.max_rep_level()) != (level, repetition) {
            return Err(format!("the levels of column `{}` are not those of its schema", column.path()));
        }
        self.leaf += 1;
        Leaf::of(ty).map(Shape::Leaf).map_err(|why| format!("column `{}` {why}", column.path()))
    }

    /// The repeated field of a list or map.
    fn repeated(ty: &Type) -> Result<&Type, String> {
        match ty.get_fields() {
            [field] if field.get_basic_info().repetition() == Repetition::REPEATED => Ok(field),
            _ => Err(format!("the list or map `{}` has no repeated field", ty.name())),
        }
    }

    fn list(&mut self, ty: &Type, level: i16, repetition: i16) -> Result<Shape, String> {
        let repeated = Self::repeated(ty)?;
        let (level, repetition) = (level + 1, repetition + 1);
        // Older writers leave out the group around the element.
        let item = match repeated {
            Type::GroupType { fields, .. }
                if fields.len() == 1
                    && fields[0].get_basic_info().repetition() != Repetition::REPEATED
                    && repeated.name() != "array"
                    && repeated.name() != format!("{}_tuple", ty.name()) =>
            {
                self.node(&fields[0], level, repetition)?
            }
            Type::GroupType { .. } | Type::PrimitiveType { .. } => {
                self.present(repeated, level, repetition)?
            }
        };
        Ok(Shape::List(Items { level, repetition, item: Box::new(item) }))
    }

    fn map(&mut self, ty: &Type, level: i16, repetition: i16) -> Result<Shape, String> {
        let repeated = Self::repeated(ty)?;
        let (level, repetition) = (level + 1, repetition + 1);
        let Type::GroupType { fields, .. } = repeated else {
            return Err(format!("the map `{}` has no keys", ty.name()));
        };
        let [key, value] = fields.as_slice() else {
            return Err(format!(
                "the map `{}` has {} fields, not a key and a value",
                ty.name(),
                fields.len()
            ));
        };
        let key = self.node(key, level, repetition)?;
        let value = self.node(value, level, repetition)?;
        Ok(Shape::Map(Items { level, repetition, item: Box::new((key, value)) }))
    }
}

fn is(ty: &Type, logical: &LogicalType, converted: &[ConvertedType]) -> bool {
    let info = ty.get_basic_info();
    info.logical_type_ref() == Some(logical) || converted.contains(&info.converted_type())
}
