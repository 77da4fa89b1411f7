import type { ButtonHTMLAttributes, ReactNode } from "react";
import { Icon, type IconName } from "./Icon";

interface IconButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  icon: IconName;
  /** What it does, for everybody who does not know the icon. */
  label: string;
  size?: number;
}

export function IconButton({ icon, label, size, className = "", ...rest }: IconButtonProps) {
  return (
    <button type="button" className={`icon-button ${className}`} aria-label={label} title={label} {...rest}>
      <Icon name={icon} size={size} />
    </button>
  );
}

interface ButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  tone?: "plain" | "main" | "danger" | "quiet";
  icon?: IconName;
  children: ReactNode;
}

export function Button({ tone = "plain", icon, children, className = "", ...rest }: ButtonProps) {
  return (
    <button type="button" className={`button ${tone} ${className}`} {...rest}>
      {icon && <Icon name={icon} size={16} />}
      {children}
    </button>
  );
}
