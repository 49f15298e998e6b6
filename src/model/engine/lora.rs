//! Low-rank matrices on the device: their values in flat buffers with the host's layout, and copies around the frozen
//! matrices, where products read them.

use std::sync::Arc;

use super::kernels::{Kernels, Rows};
use super::weights::{Group, PAD};
use crate::device::{Address, Arena, Backend, Buffer, Form, Kind};
use crate::error::Result;
use crate::model::projection::Projection;
use crate::ops::frozen_linear::Linear;
use crate::trainable::{self, Dropout, Lora, Policy};

/// A matrix in a flat buffer and the location of its copy; same layout as `Entry` in `lora.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Entry {
    to: u64,
    from: u64,
    rows: i32,
    columns: i32,
    from_pitch: i32,
    to_pitch: i32,
    scale: f32,
    kind: i32,
}

impl Entry {
    /// Creates an entry for `rows` rows of `columns` values, starting at value `from` of the flat buffer.
    fn new(
        from: usize,
        [rows, columns]: [usize; 2],
        (to, to_pitch): (Address, usize),
        scale: f64,
        kind: Kind,
    ) -> Self {
        Self {
            to: to.0,
            from: from as u64,
            rows: rows as i32,
            columns: columns as i32,
            from_pitch: columns as i32,
            to_pitch: to_pitch as i32,
            scale: scale as f32,
            kind: i32::from(kind == Kind::Bf16),
        }
    }
}

/// The role of an adapter in a pass. The ranks of a group are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    ReferenceOnly,
    Always,
    Trained,
}

/// An adapter of a policy, with its role.
pub(super) struct Placed<'a> {
    pub(super) set: &'a trainable::Adapters,
    pub(super) modules: Vec<&'a Lora>,
    pub(super) role: Role,
}

impl Placed<'_> {
    fn find(&self, module: &str) -> Option<usize> {
        self.modules.binary_search_by(|lora| lora.module.as_str().cmp(module)).ok()
    }
}

/// The adapters of a policy, ordered by role.
pub(in crate::model) struct Adapters<'a>(pub(super) Vec<Placed<'a>>);

impl<'a> Adapters<'a> {
    /// # Errors
    /// If an adapter is of a kind that has no kernels.
    pub(in crate::model) fn new(policy: &'a Policy) -> Result<Self> {
        let of_role = |reference_only: bool, role: Role| {
            let all = policy.frozen.iter().filter(move |f| f.reference_only == reference_only);
            all.map(move |f| (&f.adapters, role))
        };
        let all = of_role(true, Role::ReferenceOnly).chain(of_role(false, Role::Always));
        let all = all.chain(policy.is_adapted().then_some((&policy.trained, Role::Trained)));
        let placed = all.map(|(set, role)| {
            let modules = set.loras("the device (compute on the processor with --device cpu)")?;
            Ok(Placed { set, modules, role })
        });
        Ok(Self(placed.collect::<Result<_>>()?))
    }

    /// Returns whether one of them is trained.
    pub(super) fn trains(&self) -> bool {
        self.0.iter().any(|placed| placed.role == Role::Trained)
    }

    /// Returns the layout; equal layouts have the same matrices in the same places.
    pub(super) fn layout(&self) -> Vec<(bool, Vec<Lora>)> {
        let of = |placed: &Placed| {
            (placed.role == Role::Trained, placed.modules.iter().map(|lora| (*lora).clone()).collect())
        };
        self.0.iter().map(of).collect()
    }

    /// Returns whether the layout is `layout`, without allocating a copy, because every call on a device checks it.
    pub(super) fn has_layout(&self, layout: &[(bool, Vec<Lora>)]) -> bool {
        let same = |(placed, (trained, modules)): (&Placed, &(bool, Vec<Lora>))| {
            (placed.role == Role::Trained) == *trained && placed.modules.iter().copied().eq(modules)
        };
        self.0.len() == layout.len() && self.0.iter().zip(layout).all(same)
    }

    pub(super) fn versions(&self) -> Vec<u64> {
        self.0.iter().map(|placed| placed.set.version()).collect()
    }
}

/// One low-rank path: a module of an adapter, and its place in the group.
#[derive(Clone, Copy, Debug)]
struct Path {
    adapter: usize,
    /// Index among the adapter's modules.
    module: usize,
    role: Role,
    member: usize,
    column: usize,
    rank: usize,
}

/// A projection of a group.
#[derive(Clone, Debug)]
struct Member {
    /// Module path, which names its dropout stream.
    module: String,
    first: usize,
}

/// Projections that share one input, with their low-rank paths.
pub(super) struct Mapped {
    pub(super) group: Group,
    members: Vec<Member>,
    paths: Vec<Path>,
    /// Number of ranks used only by the reference, and by both policies; the remaining ranks are trained.
    reference_only: usize,
    always: usize,
    /// Gradients of `B [N, ranks]` and `A [ranks, K]`.
    gradients: Option<[Buffer; 2]>,
}

/// Selects the paths of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// Whether trained paths are used instead of reference-only ones.
    pub(super) policy: bool,
    pub(super) dropout: Option<Dropout>,
}

/// The context of a product over `rows` rows.
pub(super) struct Work<'a, 'b> {
    pub(super) kernels: Kernels<'a>,
    pub(super) temp: &'b mut Arena,
    pub(super) scratch: Address,
    pub(super) route: Route,
    pub(super) rows: usize,
}

impl Mapped {
    pub(super) fn new(
        device: &Arc<dyn Backend>,
        kind: Kind,
        projections: &[&Projection],
        adapters: &Adapters,
    ) -> Result<Self> {
        let (mut members, mut first) = (Vec::new(), 0);
        for projection in projections {
            members.push(Member { module: projection.module.clone(), first });
            first += projection.linear.outputs();
        }
        let (paths, borders) = paths(projections, adapters);
        let ranks = borders.iter().sum();
        let linears: Vec<&Linear> = projections.iter().map(|projection| &projection.linear).collect();
        let group = Group::new(device, kind, &linears, ranks)?;
        let [reference_only, always, trained] = borders;
        let gradients = match trained {
            0 => None,
            _ => Some([
                Buffer::zeros(device, 4 * group.outputs * trained)?,
                Buffer::zeros(device, 4 * group.inputs * trained)?,
            ]),
        };
        Ok(Self { group, members, paths, reference_only, always, gradients })
    }

    fn trained(&self) -> usize {
        self.group.ranks - self.frozen()
    }

    fn frozen(&self) -> usize {
        self.reference_only + self.always
    }

    /// The columns of the ranks used in a pass.
    fn active(&self, route: Route) -> std::ops::Range<usize> {
        if route.policy { self.reference_only..self.group.ranks } else { 0..self.frozen() }
    }

    /// Computes `y = x·Wᵀ` plus the low-rank paths. `x` must have room for the ranks after its features, filled with
    /// zeros.
    pub(super) fn forward(&self, work: &mut Work, x: Rows, y: Rows) -> Result<()> {
        let matrix = self.group.matrix(&work.kernels, work.scratch)?;
        self.ranks_forward(work, x, matrix)?;
        let shape = [work.rows, self.group.outputs, self.group.inputs + self.group.ranks];
        work.kernels.product(Form::Forward, shape, x, matrix, y)
    }

    /// Computes `z = x·Aᵀ` for the paths of the pass and stores it after the features of `x`.
    pub(super) fn low_rank(&self, work: &mut Work, x: Rows) -> Result<()> {
        if self.active(work.route).is_empty() {
            return Ok(());
        }
        // Only the low-rank rows are needed, but they are stored elsewhere for quantised weights.
        let [_, (a, pitch)] = self.group.low_rank();
        let size = work.kernels.kind.size();
        let whole = Rows::new(Address(a.0.wrapping_sub((self.group.outputs * pitch * size) as u64)), pitch);
        self.ranks_forward(work, x, whole)
    }

    fn ranks_forward(&self, work: &mut Work, x: Rows, matrix: Rows) -> Result<()> {
        let (size, inputs) = (work.kernels.kind.size(), self.group.inputs);
        let active = self.active(work.route);
        let plain = match work.route.dropout {
            Some(_) if work.route.policy => active.start..self.frozen(),
            _ => active,
        };
        let z = |column: usize| Rows::new(x.at.plus((inputs + column) * size), x.pitch);
        let a = |column: usize| {
            Rows::new(matrix.at.plus((self.group.outputs + column) * matrix.pitch * size), matrix.pitch)
        };
        if !plain.is_empty() {
            let shape = [work.rows, plain.len(), inputs];
            let (a, z) = (a(plain.start), z(plain.start));
            work.kernels.thin_product(work.temp, Form::Forward, shape, (x, a), z)?;
        }
        let (Some(dropout), true) = (work.route.dropout, work.route.policy) else { return Ok(()) };
        let mark = work.temp.mark();
        for path in self.paths.iter().filter(|path| path.role == Role::Trained) {
            let masked = self.masked(work, x, path, dropout)?;
            let shape = [work.rows, path.rank, inputs];
            work.kernels.product(Form::Forward, shape, masked, a(path.column), z(path.column))?;
            work.temp.reset(mark)?;
        }
        Ok(())
    }

    /// Returns the input of a trained path after dropout.
    fn masked(&self, work: &mut Work, x: Rows, path: &Path, dropout: Dropout) -> Result<Rows> {
        let (inputs, size) = (self.group.inputs, work.kernels.kind.size());
        let pitch = inputs.next_multiple_of(PAD);
        let masked = Rows::new(work.temp.take(work.rows * pitch * size)?, pitch);
        work.kernels.dropout((x, masked), (work.rows, inputs), self.mask(path, dropout))?;
        Ok(masked)
    }

    /// Returns the key of a path's masks and the dropout probability.
    fn mask(&self, path: &Path, dropout: Dropout) -> (u64, f32) {
        (dropout.stream_of(&self.members[path.member].module).key(), dropout.probability)
    }

    /// Computes the gradients of the ranks from `dy` (which must have room for the ranks, filled with zeros), and `dx`
    /// if it is requested.
    pub(super) fn input_backward(&self, work: &mut Work, dy: Rows, dx: Option<Rows>) -> Result<()> {
        let (size, inputs, outputs) = (work.kernels.kind.size(), self.group.inputs, self.group.outputs);
        let active = self.active(work.route);
        if dx.is_none() && active.is_empty() {
            return Ok(());
        }
        let matrix = self.group.matrix(&work.kernels, work.scratch)?;
        let dz = |column: usize| Rows::new(dy.at.plus((outputs + column) * size), dy.pitch);
        if !active.is_empty() {
            let right = Rows::new(matrix.at.plus((inputs + active.start) * size), matrix.pitch);
            let shape = [work.rows, active.len(), outputs];
            work.kernels.thin_product(work.temp, Form::Backward, shape, (dy, right), dz(active.start))?;
        }
        let Some(dx) = dx else { return Ok(()) };
        let dropout = work.route.dropout.filter(|_| work.route.policy);
        let ranks = if dropout.is_some() { self.frozen() } else { self.group.ranks };
        work.kernels.product(Form::Backward, [work.rows, inputs, outputs + ranks], dy, matrix, dx)?;
        let Some(dropout) = dropout else { return Ok(()) };
        let (mark, pitch) = (work.temp.mark(), inputs.next_multiple_of(PAD));
        let part = Rows::new(work.temp.take(work.rows * pitch * size)?, pitch);
        for path in self.paths.iter().filter(|path| path.role == Role::Trained) {
            let a = Rows::new(matrix.at.plus((outputs + path.column) * matrix.pitch * size), matrix.pitch);
            let shape = [work.rows, inputs, path.rank];
            work.kernels.product(Form::Backward, shape, dz(path.column), a, part)?;
            work.kernels.dropout_add((part, dx), (work.rows, inputs), self.mask(path, dropout))?;
        }
        work.temp.reset(mark)
    }

    /// Computes the gradients of the trained matrices from `dy` and `x` with their ranks. They are added to the
    /// gradients of earlier micro-batches unless `first` is set.
    pub(super) fn weights_backward(&self, work: &mut Work, dy: Rows, x: Rows, first: bool) -> Result<()> {
        let (size, inputs, outputs) = (work.kernels.kind.size(), self.group.inputs, self.group.outputs);
        let Some([d_b, d_a]) = self.gradients.as_ref().filter(|_| work.route.policy) else { return Ok(()) };
        let (trained, frozen) = (self.trained(), self.frozen());
        let dz = |column: usize| Rows::new(dy.at.plus((outputs + column) * size), dy.pitch);
        let z = Rows::new(x.at.plus((inputs + frozen) * size), x.pitch);
        let shape = [outputs, trained, work.rows];
        work.kernels.wide_product(
            Form::Weight,
            shape,
            (dy, z),
            Rows::new(d_b.at(), trained),
            (!first, true),
        )?;
        let Some(dropout) = work.route.dropout else {
            let shape = [trained, inputs, work.rows];
            let to = Rows::new(d_a.at(), inputs);
            return work.kernels.wide_product(Form::Weight, shape, (dz(frozen), x), to, (!first, true));
        };
        let mark = work.temp.mark();
        for path in self.paths.iter().filter(|path| path.role == Role::Trained) {
            let masked = self.masked(work, x, path, dropout)?;
            let to = Rows::new(d_a.at().plus(4 * (path.column - frozen) * inputs), inputs);
            let shape = [path.rank, inputs, work.rows];
            work.kernels.wide_product(Form::Weight, shape, (dz(path.column), masked), to, (!first, true))?;
            work.temp.reset(mark)?;
        }
        Ok(())
    }

    /// Returns the entries that copy an adapter's matrices to the group.
    pub(super) fn entries(&self, adapter: usize, placed: &Placed, kind: Kind) -> Vec<Entry> {
        let [(b, b_pitch), (a, a_pitch)] = self.group.low_rank();
        let mut entries = Vec::new();
        for path in self.paths.iter().filter(|path| path.adapter == adapter) {
            let (lora, first) = (placed.modules[path.module], self.members[path.member].first);
            let a = (a.plus(path.column * a_pitch * kind.size()), a_pitch);
            let b = (b.plus((first * b_pitch + path.column) * kind.size()), b_pitch);
            entries.push(Entry::new(lora.a().start, [lora.rank, lora.inputs], a, 1.0, kind));
            entries.push(Entry::new(lora.b().start, [lora.outputs, lora.rank], b, lora.scale, kind));
        }
        entries
    }

    /// Returns the entries that collect the trained adapter's gradients from the group.
    pub(super) fn gradient_entries(&self, placed: &Placed) -> Vec<Entry> {
        let Some([d_b, d_a]) = &self.gradients else { return Vec::new() };
        let (frozen, trained) = (self.frozen(), self.trained());
        let mut entries = Vec::new();
        for path in self.paths.iter().filter(|path| path.role == Role::Trained) {
            let (lora, first, column) =
                (placed.modules[path.module], self.members[path.member].first, path.column - frozen);
            let a = (d_a.at().plus(4 * column * lora.inputs), lora.inputs);
            let b = (d_b.at().plus(4 * (first * trained + column)), trained);
            entries.push(Entry::new(lora.a().start, [lora.rank, lora.inputs], a, 1.0, Kind::F32));
            entries.push(Entry::new(lora.b().start, [lora.outputs, lora.rank], b, lora.scale, Kind::F32));
        }
        entries
    }
}

/// Returns the paths over `projections`, and the padded number of ranks for each role.
fn paths(projections: &[&Projection], adapters: &Adapters) -> (Vec<Path>, [usize; 3]) {
    let (mut paths, mut borders, mut column) = (Vec::new(), [0; 3], 0);
    for (adapter, placed) in adapters.0.iter().enumerate() {
        for (member, projection) in projections.iter().enumerate() {
            let Some(module) = placed.find(&projection.module) else { continue };
            let (rank, role) = (placed.modules[module].rank.next_multiple_of(PAD), placed.role);
            paths.push(Path { adapter, module, role, member, column, rank });
            column += rank;
            borders[role as usize] += rank;
        }
    }
    (paths, borders)
}
