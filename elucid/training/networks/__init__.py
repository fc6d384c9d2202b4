"""Networks: `net(x, c_noise, cond) -> [B,C_out,H,W]`."""
