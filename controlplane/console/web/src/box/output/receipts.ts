/** Receipts as people read them. */

import { bytes } from '../../time/times';
import type { Receipt } from '../stream/messages';
import { t } from '../words';

export function seconds(value: number): string {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** Return why a run ended if it did not end well, or "". */
export function causeOf(receipt: Receipt | undefined): string {
  if (!receipt) return '';
  if (receipt.exit_code) return t('exitCode', { code: receipt.exit_code });
  if (receipt.signal) return t('endedBy', { signal: receipt.signal });
  if (receipt.cause === 'timeout') return t('causeTimeout');
  if (receipt.cause === 'oom') return t('causeOom');
  if (receipt.cause === 'killed') return t('causeKilled');
  return receipt.cause === 'died' ? t('causeDied') : '';
}

export function resourcesOf(receipt: Receipt | undefined): string {
  if (!receipt) return '';
  return t('took', {
    time: seconds(receipt.wall_s),
    cpu: seconds(receipt.cpu_s),
    memory: bytes(receipt.peak_memory_bytes),
  });
}
