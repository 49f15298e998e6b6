//! AMX for the tests of processors that lack it: the system stops a thread at an instruction that the processor does not
//! know, and the handler here computes what the instruction would have.
//!
//! `DPO_LORA_ISA=amx cargo test --release --lib ops::` runs the operations that way on any processor with AVX-512 and
//! `avx512_bf16`. An instruction takes about 10 µs, and a tile of weights whose shape does not fit is an abort. The source is
//! Intel's *Software Developer's Manual*, volume 2: the pages of the instructions, and `TDPBF16PS` for the order of a sum.

use std::cell::UnsafeCell;
use std::ptr;
use std::sync::OnceLock;

use half::bf16;

/// Rows of a register, and 32-bit numbers of a row.
const SIDE: usize = 16;

type Register = [[u32; SIDE]; SIDE];

/// The tile state of a thread.
struct State {
    configured: bool,
    /// Rows, and 32-bit numbers per row, of each register.
    shapes: [(usize, usize); 8],
    registers: [Register; 8],
}

thread_local! {
    /// A handler may not allocate: the value is there from the beginning, and needs no destructor.
    static STATE: UnsafeCell<State> = const {
        UnsafeCell::new(State { configured: false, shapes: [(0, 0); 8], registers: [[[0; SIDE]; SIDE]; 8] })
    };
}

/// Emulates AMX from here on if `DPO_LORA_ISA` asks for it; returns whether it does.
pub(super) fn installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| std::env::var("DPO_LORA_ISA").is_ok_and(|asked| asked == "amx") && install())
}

fn install() -> bool {
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_unknown_instruction;
    // SAFETY: the structure is plain data, of which zero is a value; the handler has the signature that SA_SIGINFO needs.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGILL, &raw const action, ptr::null_mut()) == 0
    }
}

/// Ends the process: a handler may not panic.
fn abort(why: &'static str) -> ! {
    // SAFETY: the text is readable; both calls are allowed in a handler.
    unsafe {
        libc::write(2, why.as_ptr().cast(), why.len());
        libc::abort()
    }
}

extern "C" fn on_unknown_instruction(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the registers of the thread, which stands at a readable instruction.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: as above; no instruction with these operands is shorter than 5 bytes, and longer ones have up to 10.
    let code = unsafe { std::slice::from_raw_parts(at, 10) };
    let found = Instruction::decode(code, registers);
    STATE.with(|state| {
        // SAFETY: the thread is stopped, and the handler does not use the state anywhere else.
        unsafe { found.run(&mut *state.get()) }
    });
    registers[libc::REG_RIP as usize] += found.length as i64;
}

/// An instruction with a VEX prefix of three bytes and an opcode of map 0F38.
struct Instruction {
    opcode: u8,
    /// The prefix that selects one of several: 0 none, 1 `66`, 2 `F3`, 3 `F2`.
    prefix: u8,
    /// The registers of the fields `reg`, `rm` and `vvvv`.
    tiles: [usize; 3],
    /// Address and stride, unless the operand is a register.
    memory: Option<(usize, usize)>,
    length: usize,
}

impl Instruction {
    fn decode(code: &[u8], registers: &[i64; 23]) -> Self {
        if code[0] != 0xc4 || code[1] & 31 != 2 {
            abort("an instruction that is not of AMX\n");
        }
        // The numbers of general registers as the system orders them: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
        const ORDER: [i32; 8] = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
        ];
        let general = |number: u8, high: bool| {
            let at = if high { libc::REG_R8 + i32::from(number) } else { ORDER[usize::from(number)] };
            registers[at as usize] as usize
        };
        let (high_index, high_base) = (code[1] & 0x40 == 0, code[1] & 0x20 == 0);
        let (mode, reg, rm) = (code[4] >> 6, code[4] >> 3 & 7, code[4] & 7);
        let mut length = 5;
        let mut memory = None;
        if mode != 3 {
            let (mut base, mut stride) = (rm, 0);
            if rm == 4 {
                let (index, scale) = (code[length] >> 3 & 7, code[length] >> 6);
                base = code[length] & 7;
                length += 1;
                if index != 4 || high_index {
                    stride = general(index, high_index) << scale;
                }
            }
            let mut address = general(base, high_base);
            match mode {
                0 if base == 5 => abort("an address without a base\n"),
                1 => address = address.wrapping_add_signed((code[length] as i8).into()),
                2 => {
                    let offset: [u8; 4] = std::array::from_fn(|i| code[length + i]);
                    address = address.wrapping_add_signed(i32::from_le_bytes(offset) as isize);
                }
                _ => {}
            }
            length += [0, 1, 4][usize::from(mode)];
            memory = Some((address, stride));
        }
        let tiles = [reg, rm, !code[2] >> 3 & 7].map(usize::from);
        Self { opcode: code[3], prefix: code[2] & 3, tiles, memory, length }
    }

    /// # Safety
    /// What the instruction reads and writes must be readable and writable.
    unsafe fn run(&self, state: &mut State) {
        let [to, left, right] = self.tiles;
        match (self.opcode, self.prefix, self.memory) {
            // SAFETY: `ldtilecfg` reads 64 bytes.
            (0x49, 0, Some((at, _))) => unsafe { state.configure(&*(at as *const [u8; 64])) },
            (0x49, 0, None) => state.configured = false,
            _ if !state.configured => abort("tiles without a configuration\n"),
            (0x49, 3, None) => state.registers[to] = [[0; SIDE]; SIDE],
            (0x4b, 1..=3, Some((at, stride))) => {
                let (rows, numbers) = state.shapes[to];
                for row in 0..rows {
                    let line = at.wrapping_add(row * stride) as *mut u8;
                    let own = state.registers[to][row].as_mut_ptr().cast::<u8>();
                    // SAFETY: the instruction reads or writes these bytes.
                    unsafe {
                        if self.prefix == 2 {
                            line.copy_from_nonoverlapping(own, 4 * numbers);
                        } else {
                            own.copy_from_nonoverlapping(line, 4 * numbers);
                        }
                    }
                }
            }
            (0x5c, 2, None) => state.multiply(to, left, right),
            _ => abort("an instruction of AMX that is not emulated\n"),
        }
    }
}

impl State {
    fn configure(&mut self, operand: &[u8; 64]) {
        let shape = |i: usize| (usize::from(operand[48 + i]), usize::from(operand[16 + 2 * i]) / 4);
        self.shapes = std::array::from_fn(shape);
        if operand[0] != 1 || self.shapes.iter().any(|(rows, numbers)| *rows > SIDE || *numbers > SIDE) {
            abort("a configuration that does not exist\n");
        }
        (self.configured, self.registers) = (true, [[[0; SIDE]; SIDE]; 8]);
    }

    /// `tdpbf16ps`: the even and the odd products of a row are summed one after the other, each rounded once; denormals are
    /// zero.
    fn multiply(&mut self, to: usize, left: usize, right: usize) {
        let [(rows, columns), (left_rows, depth), (right_rows, width)] =
            [to, left, right].map(|tile| self.shapes[tile]);
        if left_rows != rows || right_rows < depth || width != columns {
            abort("tiles whose shapes do not fit\n");
        }
        let numbers = |word: u32| {
            [word as u16, (word >> 16) as u16].map(|half| flushed(bf16::from_bits(half).to_f32()))
        };
        for row in 0..rows {
            for column in 0..columns {
                let mut sums = [0.0f32; 2];
                for k in 0..depth {
                    let a = numbers(self.registers[left][row][k]);
                    let b = numbers(self.registers[right][k][column]);
                    sums = std::array::from_fn(|i| flushed(a[i].mul_add(b[i], sums[i])));
                }
                let sum = &mut self.registers[to][row][column];
                *sum = flushed(flushed(f32::from_bits(*sum)) + flushed(sums[0] + sums[1])).to_bits();
            }
        }
    }
}

/// Denormals as zero.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}
